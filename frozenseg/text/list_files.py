"""Read files of class lists: JSON, tables, and one class per line as in the field's lists."""

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

from frozenseg.errors import MissingFileError, UserError, UserValueError
from frozenseg.text.names import clean, shown, spelling
from frozenseg.text.parsing import Row, names_of, ordered, rows_of

MAX_FILE_SIZE = 16 * 2**20  # bytes; the field's longest list has 100,000 bytes
NUMBERED = re.compile(r"(\d{1,9})\s*[:\uff1a](.*)")
# A line that begins with a number, a separator and a name, as in tables.
COUNTED = re.compile(r"\d{1,9}[\s,]+\S")
SECTIONS = {"things": True, "stuff": False}
# The spelling of entry 0 in the field's lists, which is not a class.
PLACEHOLDER = "invalid class id"
NAME_COLUMNS = frozenset(("class", "name", "names", "class name", "category", "label"))
NUMBER_COLUMNS = frozenset(("id", "idx", "index"))
HEADINGS = NAME_COLUMNS | NUMBER_COLUMNS
THING_COLUMNS = frozenset(("isthing", "is thing", "thing"))
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
        numbered = all(cells[0].isdigit() for _, cells in table)
        heading = [*(["id"] if numbered else []), "name", *["synonyms"] * 100]
    elif not (columns := [title for title in heading if title in NAME_COLUMNS]):
        raise UserValueError(f"{what}, line 1: the table has no column `name`; add it")
    else:
        heading[heading.index(columns[0])] = "name"
        table = table[1:]
    rows = [_row_of_cells(heading, cells, f"line {line}", what) for line, cells in table]
    return ordered(rows, what)


def _row_of_cells(heading: list[str], cells: list[str], place: str, what: str) -> Row:
    """Return one row of a table.

    Commas separate synonyms in the column `synonyms`; in the column `name`, they are part of the
    name.
    """
    names, number, is_thing = [""], None, None
    for title, cell in zip(heading, cells, strict=False):
        if title == "name":
            names[0] = clean(cell, f"{what}, {place}")
        elif title == "synonyms" and cell:
            names += names_of(cell, f"{what}, {place}")
        elif title in NUMBER_COLUMNS and cell:
            if not re.fullmatch(r"[0-9]{1,9}", cell):
                raise UserValueError(f"{what}, {place}: id is {shown(cell)}; give a whole number")
            number = int(cell)
        elif title in THING_COLUMNS and cell:
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
