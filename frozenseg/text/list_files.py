"""Read files of class lists: JSON, tables, and one class per line as in the field's lists."""

import csv
import io
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

from frozenseg.errors import MissingFileError, UserError, UserValueError
from frozenseg.notes import note
from frozenseg.text.names import clean, shown, spelling
from frozenseg.text.parsing import Row, names_of, ordered, rows_of

MAX_FILE_SIZE = 16 * 2**20  # bytes; the field's longest list has 100,000 bytes
NUMBERED = re.compile(r"(\d{1,9})\s*[:\uff1a](.*)")
# A line that begins with a number, a separator and a name, as in tables.
COUNTED = re.compile(r"\d{1,9}[\s,]+\S")
SECTIONS = {"things": True, "stuff": False}
# The spelling of entry 0 in the field's lists, which is not a class.
PLACEHOLDER = "invalid class id"
# Titles of columns in groups: a title counts where no title of an earlier group is in the table.
NAME_COLUMNS = (("name",), ("class name", "names"), ("class", "category", "label"))
NUMBER_COLUMNS = (("id",), ("idx", "index"))
HEADINGS = frozenset(itertools.chain(*NAME_COLUMNS, *NUMBER_COLUMNS))
THING_COLUMNS = frozenset(("isthing", "is thing", "thing"))
NUMBER = re.compile(r"[0-9]{1,9}")
THING_VALUES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def rows_of_file(path: str | os.PathLike[str]) -> list[Row]:
    """Return the classes of a file: JSON, a table (`.csv`, `.tsv`), or one class in each line.

    Raises `UserError` for a file that cannot be read or has no class.
    """
    what = f"vocabulary {os.fspath(path)}"
    try:
        with open(os.path.expanduser(path), "rb") as file:
            content = file.read(MAX_FILE_SIZE + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserValueError(f"{what}: cannot be read ({error}); save it as UTF-8") from None
    except FileNotFoundError as error:
        raise MissingFileError(f"{what}: cannot be read ({error.strerror})") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserValueError(f"{what}: cannot be read ({reason})") from None
    if len(content) > MAX_FILE_SIZE:
        raise UserValueError(
            f"{what}: has more than {MAX_FILE_SIZE} bytes; is it a list of classes?"
        )
    if Path(path).suffix.lower() in (".yaml", ".yml"):
        raise UserValueError(f"{what}: YAML is not read; write one name in each line, or JSON")
    text = text.replace("\ufeff", "")  # concatenated files have further byte order marks
    return rows_of_content(text, Path(path).suffix.lower(), what)


def rows_of_content(text: str, suffix: str, what: str) -> list[Row]:
    """Do the same as `rows_of_file` for the content of a file.

    suffix: the suffix of the file's name. what: the name of the file in messages.
    """
    rows = [
        row
        for row in _rows_of_text(text, suffix, what)
        if [spelling(name) for name in row.names] != [PLACEHOLDER]
    ]
    if not rows:
        raise UserValueError(f"{what}: holds no class")
    return rows


def _rows_of_text(text: str, suffix: str, what: str) -> list[Row]:
    if suffix in (".csv", ".tsv"):
        return _rows_of_table(text, what)
    is_json = suffix == ".json" or text.lstrip().startswith("{")
    rows = _rows_of_json(text, what, is_json) if is_json or text.lstrip()[:1] == "[" else None
    if rows is None:
        return _rows_of_lines(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), what)
    return rows


def _rows_of_table(text: str, what: str) -> list[Row]:
    """Read a table with one class in each row.

    If the table has a heading, its columns `name`, `id`, `synonyms` and `isthing` are read, in any
    order, and other columns are ignored. Otherwise, a row holds a name and its synonyms, after a
    number if all rows begin with one.
    """
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count))
    try:
        table = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise UserValueError(f"{what}: is not a table ({error}); save it as CSV again") from None
    table = [(line, cells) for line, cells in table if any(cells)]
    if not table:
        raise UserValueError(f"{what}: holds no class")
    heading = [spelling(cell) for cell in table[0][1]]
    if HEADINGS.isdisjoint(heading):
        longest = max(len(cells) for _, cells in table)
        has_names = any(any(cells[1:]) for _, cells in table)  # otherwise the numbers are names
        numbered = has_names and all(cells[0].isdigit() for _, cells in table)
        heading = [*(["id"] if numbered else []), "name", *["synonyms"] * longest]
    else:
        line, titles = table.pop(0)
        heading = _known_titles(heading, [cells for _, cells in table], f"{what}, line {line}")
        if table and sum(map(bool, titles)) == 1 and "name" not in map(spelling, titles):
            (title,) = filter(None, titles)
            note(
                f"{what}, line {line}: {shown(title)} is read as the heading of the table; if it "
                "is a class, write a line `name` above it"
            )
    rows = [_row_of_cells(heading, cells, f"line {line}", what) for line, cells in table]
    return ordered(rows, what)


def _known_titles(heading: list[str], rows: list[list[str]], place: str) -> list[str]:
    """Return the titles of the columns that are read: `name`, `id`, `synonyms` and `isthing`.

    Other columns get the title "". If several columns could be the name, those of numbers are not;
    one of them is the id if no column is called so. Raises `UserError` if several remain.

    heading: the spellings of the titles. rows: the cells of the other lines.
    """
    columns = [[cells[i] for cells in rows if i < len(cells)] for i in range(len(heading))]
    known = set(itertools.chain(*NAME_COLUMNS))
    names = [i for i, title in enumerate(heading) if title in known]
    numbers = [i for i in names if all(map(NUMBER.fullmatch, columns[i]))]
    if len(numbers) == len(names):  # names may be numbers too
        numbers = []
    rest = ["" if i in numbers else title for i, title in enumerate(heading)]
    name = _column(rest, NAME_COLUMNS, "name", place)
    if name is None:
        raise UserValueError(f"{place}: the table has no column `name`; add it")
    number = _column(rest, NUMBER_COLUMNS, "id", place)
    if number is None and len(numbers) == 1:
        (count,) = numbers
        if len(set(map(int, columns[count]))) == len(rows):  # otherwise, e.g. a group of classes
            number = count
    titles = [
        "isthing" if title in THING_COLUMNS else title if title == "synonyms" else ""
        for title in heading
    ]
    titles[name] = "name"
    if number is not None:
        titles[number] = "id"
    return titles


def _column(
    heading: list[str], groups: tuple[tuple[str, ...], ...], role: str, place: str
) -> int | None:
    """Return the column whose title is in the first of the groups that has one; None if none has.

    Raises `UserError` if the group has several.
    """
    for group in groups:
        found = [i for i, title in enumerate(heading) if title in group]
        if len(found) > 1:
            one, other = (heading[i] for i in found[:2])
            raise UserValueError(
                f"{place}: the columns {shown(one)} and {shown(other)} could both be the {role}; "
                "leave one out"
            )
        if found:
            return found[0]
    return None


def _row_of_cells(heading: list[str], cells: list[str], place: str, what: str) -> Row:
    """Return one row of a table.

    Commas separate synonyms in the column `synonyms`; in the column `name`, they are part of the
    name.
    """
    names, number, is_thing = [""], None, None
    if any(cells[len(heading) :]):
        raise UserValueError(
            f"{what}, {place}: has more cells than the heading; put what has a comma in double "
            "quotes, or title all columns"
        )
    for title, cell in zip(heading, cells, strict=False):
        if title == "name":
            names[0] = clean(cell, f"{what}, {place}")
        elif title == "synonyms" and cell:
            names += names_of(cell, f"{what}, {place}")
        elif title == "id" and cell:
            if not NUMBER.fullmatch(cell):
                raise UserValueError(f"{what}, {place}: id is {shown(cell)}; give a whole number")
            number = int(cell)
        elif title == "isthing" and cell:
            is_thing = THING_VALUES.get(spelling(cell))
            if is_thing is None:
                raise UserValueError(f"{what}, {place}: isthing is {shown(cell)}; give 0 or 1")
    if not names[0]:
        raise UserValueError(f"{what}, {place} is blank: name it or leave it out")
    unique = dict.fromkeys(names)
    return Row(tuple(unique), place, number, is_thing)


def _rows_of_lines(lines: list[str], what: str) -> list[Row]:
    """Read lines `name, synonym`, or `id:name,synonym` as in the field's lists.

    Classes after a line `[stuff]` are stuff, and after `[things]` they are things. A comment starts
    with `#` at the beginning of a line or after a space.
    """
    rows: list[Row] = []
    written: list[str] = []
    places: dict[int, str] = {}
    is_thing: bool | None = None
    for count, line in enumerate(lines, 1):
        line, place = re.sub(r"(^|\s)#.*", "", line).strip(), f"line {count}"
        if not line:
            continue
        if section := re.fullmatch(r"\[(.*)\]", line):
            is_thing = SECTIONS.get(spelling(section[1]))
            if is_thing is None:
                raise UserValueError(
                    f"{what}, {place}: no section {line}; known: [things], [stuff]"
                )
            continue
        numbered = NUMBERED.fullmatch(line)
        number = int(numbered[1]) if numbered else None
        group = numbered[2] if numbered else line
        if ";" in group:
            raise UserValueError(
                f"{what}, {place}: has a `;`; in a file each class has its own line"
            )
        if number is not None and number in places:
            raise UserValueError(
                f"{what}: {places[number]} and {place} have the same number, {number}"
            )
        if number is not None:
            places[number] = place
        rows.append(Row(names_of(group, f"{what}, {place}"), place, number, is_thing))
        written.append(line)
    _refuse_table(rows, written, what)
    _refuse_tabs(rows, written, what)
    return ordered(rows, what)


def _refuse_table(rows: list[Row], written: list[str], what: str) -> None:
    """Refuse the heading of a table, and a column of numbers that are not written as `id:name`.

    Both would otherwise become names.
    """
    heading = {spelling(name) for name in rows[0].names} if rows else set()
    if {"id", "name"} <= heading or (heading and heading <= HEADINGS):
        raise UserValueError(f"{what}, {rows[0].place}: the heading of a table; leave it out")
    columns = [re.split(r"[\s,]", line)[0] for line in written if COUNTED.match(line)]
    if 1 < len(columns) == len(set(columns)) and len(columns) >= len(rows) - 1:
        raise UserValueError(
            f"{what}, {rows[-1].place}: begins with a number, like other lines; write the number "
            f"of a class as {columns[-1]}:name, and put a name that begins with a number in double "
            "quotes"
        )


def _refuse_tabs(rows: list[Row], written: list[str], what: str) -> None:
    """Refuse columns separated by tabs, which would become one name of several words."""
    if columns := [row for row, line in zip(rows, written, strict=True) if "\t" in line]:
        raise UserValueError(f"{what}, {columns[0].place}: has a tab; save a table as .csv or .tsv")


def _rows_of_json(text: str, what: str, required: bool) -> list[Row] | None:
    """Return the classes of JSON in any form that `rows_of` accepts.

    required: whether text that is not JSON is an error; if not, None is returned for it.
    """
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        if not required:
            return None
        raise UserValueError(f"{what}: not valid JSON ({error})") from None
    except UserError as error:
        raise UserValueError(f"{what}: {error}") from None
    return rows_of(content, what)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        key = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise UserValueError(f"has the key {shown(key)} twice in one object")
    return content
