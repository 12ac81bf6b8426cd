"""The one reader of class lists: whatever a user writes becomes rows, one for each class.

A string has classes between `;` and synonyms between `,`. In a list, each entry is a class: a
string with synonyms between `,`, or a list of synonyms, in which a comma is part of a name. A
mapping {number: class} is ordered by its numbers. Files are read by `rows_of_file`.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frozenseg.errors import UserError
from frozenseg.text.names import clean, shown, spelling

MAX_FILE_SIZE = 16 * 2**20  # bytes; the longest list of the field has 100 thousand
NUMBERED = re.compile(r"([0-9]{1,9})\s*:(.*)")
# What a name cannot hold there: a separator, a comment, a number or section at its begin.
NOT_IN_LINES = re.compile(r"[,;]|(^|\s)#|^[0-9]{1,9}\s*:|^\[")
SECTIONS = {"things": True, "stuff": False}
PLACEHOLDER = "invalid class id"  # the spelling of entry 0 in the field's lists, no class
FORMS = 'give names as "car, truck; road", a list, {number: name}, or a Path to a file'


@dataclass(frozen=True)
class Row:
    """One class as it was written. place: where. number: its id, if it has one. is_thing: None
    where the source does not say it."""

    names: tuple[str, ...]
    place: str
    number: int | None = None
    is_thing: bool | None = None

    @property
    def is_numbered_line(self) -> bool:
        """Of a list in the field's form `id:name,...`: the ids tell classes of one name apart."""
        return self.number is not None and self.place.startswith("line ")


def rows_of(source: object, what: str = "the vocabulary") -> list[Row]:
    """The classes of a string, a list or a mapping."""
    if isinstance(source, str):
        groups: list[object] = list(source.split(";"))
        if len(groups) > 1 and not str(groups[-1]).strip():
            groups.pop()  # a `;` at the end is no slip
        return _rows(groups, what)
    if isinstance(source, Mapping):
        return _numbered_rows(source, what)
    if isinstance(source, bytes | bytearray | memoryview) or not isinstance(source, Iterable):
        raise UserError(f"{what} is {shown(source)}: {FORMS}")
    if isinstance(source, set | frozenset):
        source = sorted(source, key=repr)  # the same order in every process
    return _rows(list(source), what)


def _rows(groups: list[object], what: str) -> list[Row]:
    if all(isinstance(group, str) and not group.strip() for group in groups):
        raise UserError(f"{what} is empty: give at least one class name")
    return [
        Row(_names(group, f"class {number} of {what}"), f"class {number}")
        for number, group in enumerate(groups, 1)
    ]


def _names(group: object, place: str) -> tuple[str, ...]:
    """The synonyms of one class; empty ones between commas are passed over."""
    if isinstance(group, str):
        parts: list[object] = [part for part in group.split(",") if part.strip()]
    elif isinstance(group, list | tuple) and all(isinstance(name, str) for name in group):
        parts = list(group)
    else:
        raise UserError(f"{place} is {shown(group)}: names must be text")
    if not parts:
        raise UserError(f"{place} is blank: name it or leave it out")
    return tuple(clean(part, place) for part in parts)


def _numbered_rows(source: Mapping[Any, Any], what: str) -> list[Row]:
    numbers: dict[int, object] = {}
    for key, group in source.items():
        number = int(key) if isinstance(key, str) and re.fullmatch("[0-9]{1,9}", key) else key
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise UserError(f"{what} has the key {shown(key)}: {FORMS}")
        if number in numbers:
            raise UserError(f"{what} has the number {number} twice; give each class its own")
        numbers[number] = group
    if not numbers:
        raise UserError(f"{what} is empty: give at least one class name")
    return [
        Row(_names(numbers[number], f"class {number} of {what}"), f"class {number}", number)
        for number in sorted(numbers)
    ]


def rows_of_file(path: str | os.PathLike[str]) -> list[Row]:
    """The classes of a file: JSON, if its whole content is, else one class a line."""
    what = f"vocabulary {os.fspath(path)}"
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_SIZE + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: cannot be read ({error}); save it as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what}: cannot be read ({reason})") from None
    if len(content) > MAX_FILE_SIZE:
        raise UserError(f"{what}: has more than {MAX_FILE_SIZE} bytes; is it a list of classes?")
    is_json = Path(path).suffix.lower() == ".json"
    rows = _rows_of_json(text, what, is_json) if is_json or text.lstrip()[:1] in "[{" else None
    if rows is None:
        rows = _rows_of_lines(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), what)
    rows = [row for row in rows if [spelling(name) for name in row.names] != [PLACEHOLDER]]
    if not rows:
        raise UserError(f"{what}: holds no class")
    return rows


def _rows_of_lines(lines: list[str], what: str) -> list[Row]:
    """Lines `name, synonym` or, as the field's lists have it, `id:name,synonym`.

    Classes after a line `[stuff]` are stuff, after `[things]` things. A comment starts with `#` at
    the begin of a line or behind a space.
    """
    rows: list[Row] = []
    places: dict[int, str] = {}
    is_thing: bool | None = None
    for count, line in enumerate(lines, 1):
        line, place = re.sub(r"(^|\s)#.*", "", line).strip(), f"line {count}"
        if not line:
            continue
        if section := re.fullmatch(r"\[(.*)\]", line):
            is_thing = SECTIONS.get(spelling(section[1]))
            if is_thing is None:
                raise UserError(f"{what}, {place}: no section {line}; known: [things], [stuff]")
            continue
        numbered = NUMBERED.fullmatch(line)
        number = int(numbered[1]) if numbered else None
        group = numbered[2] if numbered else line
        if ";" in group:
            raise UserError(f"{what}, {place}: has a `;`; in a file each class has its own line")
        if number is not None and number in places:
            raise UserError(f"{what}: {places[number]} and {place} have one number, {number}")
        if number is not None:
            places[number] = place
        rows.append(Row(_names(group, f"{what}, {place}"), place, number, is_thing))
    return _ordered(rows, what)


def _ordered(rows: list[Row], what: str) -> list[Row]:
    """By number, where there are numbers."""
    unnumbered = [row for row in rows if row.number is None]
    if len(unnumbered) == len(rows):
        if rows and {"id", "name"} <= {spelling(name) for name in rows[0].names}:
            raise UserError(f"{what}, {rows[0].place}: the heading of a table; leave it out")
        return rows
    if unnumbered:
        raise UserError(f"{what}, {unnumbered[0].place}: has no number, unlike other lines")
    return sorted(rows, key=lambda row: row.number or 0)


def _rows_of_json(text: str, what: str, required: bool) -> list[Row] | None:
    """A list of classes, {number: class}, {"names": either} (as score.py and ultralytics have it),
    or COCO's {"categories": [{"id", "name"}]}, whose names hold no synonyms. None: no JSON."""
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        if not required:
            return None
        raise UserError(f"{what}: not whole JSON ({error})") from None
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
    if isinstance(content, dict) and "categories" in content:
        content = content["categories"]
    elif isinstance(content, dict) and "names" in content:
        content = content["names"]
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        return _ordered([_category(row, i, what) for i, row in enumerate(content)], what)
    if not isinstance(content, list | dict):
        raise UserError(f"{what}: holds {shown(content)}; a JSON list of class names was expected")
    return rows_of(content, what)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise UserError(f"has the key {shown(key)} twice in one object")
    return found


def _category(entry: dict[str, Any], position: int, what: str) -> Row:
    place = f"categories[{position}]"
    number, is_thing = entry.get("id"), entry.get("isthing")
    if not isinstance(number, int | None) or isinstance(number, bool):
        raise UserError(f"{what}, {place}: id is {shown(number)}; a whole number was expected")
    if is_thing not in (None, 0, 1):
        raise UserError(f"{what}, {place}: isthing is {shown(is_thing)}; 0 or 1 was expected")
    name = clean(entry.get("name"), f"the name of {what}, {place},")
    return Row((name,), place, number, None if is_thing is None else bool(is_thing))
