"""Reads class lists in all forms that a user may write; each class becomes one `Row`.

In a string, `;` separates classes and `,` separates synonyms. In a list, each entry is a class:
either a string, in which `,` separates synonyms, or a list of synonyms, in which a comma is part of
a name. Within double quotes a comma is part of the name too. A mapping {number: class} and COCO's
categories are ordered by their numbers. `rows_of_file` reads files.
"""

import io
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

from frozenseg.errors import MissingFileError, UserError, UserValueError
from frozenseg.text.names import clean, shown, spelling

logger = logging.getLogger(__name__)

MAX_FILE_SIZE = 16 * 2**20  # bytes; the field's longest list has 100,000 of them
NUMBERED = re.compile(r"(\d{1,9})\s*[:\uff1a](.*)")
# A column of numbers before the names, as in tables.
COUNTED = re.compile(r"\d{1,9}[\s,]+\S")
# A name between commas. It may be in double quotes; quotes within it are doubled, as in CSV.
SYNONYM = re.compile(r'\s*"((?:[^"]|"")+)"\s*(?:,|$)|([^,]*)(?:,|$)')
# What a name in a file of lines must not have: a separator or a comment, or at its beginning a
# number, a section or a quote.
NOT_IN_LINES = re.compile(r'[,;]|(^|\s)#|^\d{1,9}\s*[:\uff1a]|^[\["{]')
SECTIONS = {"things": True, "stuff": False}
# The spelling of entry 0 in the field's lists, which is no class.
PLACEHOLDER = "invalid class id"
HEADINGS = frozenset(("id", "idx", "index", "class", "name", "names", "class name", "category"))
# Keys under which files of other programs have their classes.
TABLES = ("categories", "names")
NO_LIST = (bytes, bytearray, memoryview, io.IOBase)
ACCEPTED_FORMS = 'give names as "car, truck; road", a list, {number: name}, or a Path to a file'


@dataclass(frozen=True)
class Row:
    """One class as it was written.

    names: its synonyms. place: where it was read, for messages. number: its id, if it has one.
    is_thing: None if the source does not tell.
    """

    names: tuple[str, ...]
    place: str
    number: int | None = None
    is_thing: bool | None = None

    @property
    def is_numbered_line(self) -> bool:
        """Whether it is a line `id:name,...`, where ids tell classes of one name apart."""
        return self.number is not None and self.place.startswith("line ")


def rows_of(source: object, what: str = "the vocabulary") -> list[Row]:
    """The classes of a string, a list, a mapping, or COCO's categories.

    Also accepts {"categories": [{"id": ..., "name": ...}]} of COCO, and {"names": ...} of
    ultralytics and of `frozenseg score`. what: a name for the source, for messages.
    """
    if isinstance(source, Mapping):
        source = next((source[key] for key in TABLES if key in source), source)
    if isinstance(source, str):
        return _rows_of_text(source, what)
    if isinstance(source, Mapping):
        return _numbered_rows(source, what)
    if isinstance(source, NO_LIST) or not isinstance(source, Iterable):
        raise UserValueError(f"{what} is {shown(source)}: {ACCEPTED_FORMS}")
    if isinstance(source, set | frozenset):
        source = sorted(source, key=repr)  # the same order in every process
    groups = list(source)
    if groups and all(isinstance(group, Mapping) for group in groups):
        return _rows_of_categories(groups, what)
    return _rows(groups, what)


def _rows_of_text(text: str, what: str) -> list[Row]:
    if text.strip().lower().endswith((".txt", ".json", ".csv")):
        raise UserValueError(
            f"{what} is {shown(text, 100)}: class names were expected; give a file by "
            "--vocabulary-file, and in Python as a pathlib.Path"
        )
    groups: list[object] = list(text.split(";"))
    if len(groups) > 1 and not str(groups[-1]).strip():
        groups.pop()  # a `;` at the end is allowed
    return _rows(groups, what)


def _rows(groups: list[object], what: str) -> list[Row]:
    if all(isinstance(group, str) and not group.strip() for group in groups):
        raise UserValueError(f"{what} is empty: give at least one class name")
    return [
        Row(_names(group, f"class {number} of {what}"), f"class {number}")
        for number, group in enumerate(groups, 1)
    ]


def _names(group: object, place: str) -> tuple[str, ...]:
    """The synonyms of one class; nothing between two commas is ignored."""
    if isinstance(group, str):
        parts: list[object] = [part for part in _between_commas(group) if part.strip()]
    elif isinstance(group, list | tuple) and all(isinstance(name, str) for name in group):
        parts = list(group)
    else:
        raise UserValueError(f"{place} is {shown(group)}: names must be text")
    if not parts:
        raise UserValueError(f"{place} is blank: name it or leave it out")
    return tuple(clean(part, place) for part in parts)


def _between_commas(text: str) -> list[str]:
    if '"' not in text:
        return text.split(",")
    synonyms = SYNONYM.findall(text.strip())
    return [quoted.replace('""', '"') if quoted else plain for quoted, plain in synonyms]


def _numbered_rows(source: Mapping[Any, Any], what: str) -> list[Row]:
    numbers: dict[int, object] = {}
    for key, group in source.items():
        number = int(key) if isinstance(key, str) and re.fullmatch("[0-9]{1,9}", key) else key
        if not isinstance(number, Integral) or isinstance(number, bool) or number < 0:
            raise UserValueError(f"{what} has the key {shown(key)}: {ACCEPTED_FORMS}")
        if number in numbers:
            raise UserValueError(f"{what} has the number {number} twice; give each class its own")
        numbers[int(number)] = group
    if not numbers:
        raise UserValueError(f"{what} is empty: give at least one class name")
    return [
        Row(_names(numbers[number], f"class {number} of {what}"), f"class {number}", number)
        for number in sorted(numbers)
    ]


def rows_of_file(path: str | os.PathLike[str]) -> list[Row]:
    """The classes of a file, which is JSON or has one class in each line.

    Raises `UserError` for a file that cannot be read or has no class.
    """
    what = f"vocabulary {os.fspath(path)}"
    try:
        with open(path, "rb") as file:
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
    text = text.replace("\ufeff", "")  # byte order marks remain where files were concatenated
    is_json = Path(path).suffix.lower() == ".json" or text.lstrip().startswith("{")
    rows = _rows_of_json(text, what, is_json) if is_json or text.lstrip()[:1] == "[" else None
    if rows is None:
        rows = _rows_of_lines(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), what)
    rows = [row for row in rows if [spelling(name) for name in row.names] != [PLACEHOLDER]]
    if not rows:
        raise UserValueError(f"{what}: holds no class")
    return rows


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
            raise UserValueError(f"{what}: {places[number]} and {place} have one number, {number}")
        if number is not None:
            places[number] = place
        rows.append(Row(_names(group, f"{what}, {place}"), place, number, is_thing))
        written.append(line)
    _refuse_table(rows, written, what)
    return _ordered(rows, what)


def _refuse_table(rows: list[Row], written: list[str], what: str) -> None:
    """Refuse a heading, and a column of numbers that are not `id:`; both would become names."""
    heading = {spelling(name) for name in rows[0].names} if rows else set()
    if {"id", "name"} <= heading or (heading and heading <= HEADINGS):
        raise UserValueError(f"{what}, {rows[0].place}: the heading of a table; leave it out")
    columns = [re.split(r"[\s,]", line)[0] for line in written if COUNTED.match(line)]
    if 1 < len(columns) == len(set(columns)) and len(columns) >= len(rows) - 1:
        raise UserValueError(
            f"{what}, {rows[-1].place}: begins with a number, as other lines do; write a "
            f"class's number as {columns[-1]}:name, and a name that begins so in double quotes"
        )


def _ordered(rows: list[Row], what: str) -> list[Row]:
    """The rows ordered by number, if they have numbers."""
    unnumbered = [row for row in rows if row.number is None]
    if len(unnumbered) == len(rows):
        return rows
    if unnumbered:
        raise UserValueError(f"{what}, {unnumbered[0].place}: has no number, unlike other lines")
    return sorted(rows, key=lambda row: row.number or 0)


def _rows_of_json(text: str, what: str, required: bool) -> list[Row] | None:
    """JSON of any form that `rows_of` accepts; None if it is not JSON and need not be."""
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        if not required:
            return None
        raise UserValueError(f"{what}: not whole JSON ({error})") from None
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
    return rows_of(content, what)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        key = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise UserError(f"has the key {shown(key)} twice in one object")
    return content


def _rows_of_categories(entries: list[Mapping[str, Any]], what: str) -> list[Row]:
    """Categories of COCO, in whose names a comma is part of the name.

    Synonyms, which LVIS and our own predictions have, are left out with a warning if several
    classes have them.
    """
    rows = _ordered([_category(entry, i, what) for i, entry in enumerate(entries)], what)
    owners = Counter(key for row in rows for key in {spelling(name) for name in row.names})
    shared = [name for row in rows for name in row.names[1:] if owners[spelling(name)] > 1]
    if shared:
        logger.warning(
            "%s: %d synonyms are left out because other classes have them too, e.g. %s",
            what,
            len(shared),
            shown(shared[0]),
        )
    return [
        replace(row, names=(row.names[0], *(n for n in row.names[1:] if n not in shared)))
        for row in rows
    ]


def _category(entry: Mapping[str, Any], position: int, what: str) -> Row:
    place = f"categories[{position}]"
    number, is_thing = entry.get("id"), entry.get("isthing")
    if not isinstance(number, Integral | None) or isinstance(number, bool):
        raise UserValueError(f"{what}, {place}: id is {shown(number)}; a whole number was expected")
    if is_thing not in (None, 0, 1):
        raise UserValueError(f"{what}, {place}: isthing is {shown(is_thing)}; 0 or 1 was expected")
    name = clean(entry.get("name"), f"the name of {what}, {place},")
    others = _names(entry.get("synonyms") or [name], f"{what}, {place}: synonyms")
    return Row(
        (name, *(other for other in dict.fromkeys(others) if spelling(other) != spelling(name))),
        place,
        None if number is None else int(number),
        None if is_thing is None else bool(is_thing),
    )
