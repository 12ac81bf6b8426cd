"""Read class lists in all forms that a user may write; each class becomes one `Row`.

In a string, `;` separates classes and `,` separates synonyms. In a list, each entry is a class:
either a string, in which `,` separates synonyms, or a list of synonyms, in which a comma is part of
a name. A comma within double quotes is part of the name too. A mapping {number: class} and COCO's
categories are ordered by their numbers. `frozenseg.text.list_files` reads files.
"""

import io
import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from frozenseg.errors import UserValueError
from frozenseg.text.names import clean, shown, spelling

logger = logging.getLogger(__name__)

# A name between commas. It may be in double quotes; quotes inside it are doubled, as in CSV.
SYNONYM = re.compile(r'\s*"((?:[^"]|"")+)"\s*(?:,|$)|([^,]*)(?:,|$)')
QUOTED = re.compile(r'(?<![^,;])\s*"(?:[^"]|"")+"\s*(?=[,;]|$)')  # a quoted name in an entire list
# Keys under which files of other programs store their classes.
TABLES = ("categories", "names")
FILES = (".txt", ".json", ".csv", ".tsv")  # suffixes of class lists
NO_LIST = (bytes, bytearray, memoryview, io.IOBase)
ACCEPTED_FORMS = 'give names as "car, truck; road", a list, {number: name}, or a Path to a file'


@dataclass(frozen=True)
class Row:
    """One class as it was written.

    names: its synonyms. place: where it was read, for messages. number: its id, if it has one.
    is_thing: whether it is a thing; None if the source does not say.
    """

    names: tuple[str, ...]
    place: str
    number: int | None = None
    is_thing: bool | None = None

    @property
    def is_numbered_line(self) -> bool:
        """Whether it was read from a line `id:name,...`, where ids separate classes with the same
        name."""
        return self.number is not None and self.place.startswith("line ")


def rows_of(source: object, what: str = "the vocabulary") -> list[Row]:
    """Return the classes of a string, a list, a mapping, or COCO's categories.

    Also accepts COCO's {"categories": [{"id": ..., "name": ...}]}, and {"names": ...} of
    ultralytics and of `frozenseg score`. what: the name of the source in messages. Raises
    `UserError` for a source that cannot be read in this way.
    """
    if isinstance(source, Mapping):
        source = next((source[key] for key in TABLES if key in source), source)
    if isinstance(source, str):
        return _rows_of_text(source, what)
    if isinstance(source, Mapping):
        return _numbered_rows(source, what)
    one = isinstance(source, NO_LIST) or getattr(source, "ndim", 1) == 0  # 0: one value in an array
    if one or not isinstance(source, Iterable):
        raise UserValueError(f"{what} is {shown(source)}: {ACCEPTED_FORMS}")
    if isinstance(source, set | frozenset):
        source = sorted(source, key=repr)  # the same order in every process
    groups = list(source)
    if groups and all(isinstance(group, Mapping) for group in groups):
        return _rows_of_categories(groups, what)
    return _rows(groups, what)


def _rows_of_text(text: str, what: str) -> list[Row]:
    if text.strip().lower().endswith(FILES):
        raise UserValueError(
            f"{what} is {shown(text, 100)}: class names were expected; give a file by "
            "--vocabulary-file, or in Python as a pathlib.Path"
        )
    groups: list[object] = list(_between_semicolons(text))
    if len(groups) > 1 and not str(groups[-1]).strip():
        groups.pop()  # a `;` at the end is allowed
    return _rows(groups, what)


def _rows(groups: list[object], what: str) -> list[Row]:
    if all(isinstance(group, str) and not group.strip() for group in groups):
        raise UserValueError(f"{what} is empty: give at least one class name")
    return [
        Row(names_of(group, f"class {number} of {what}"), f"class {number}")
        for number, group in enumerate(groups, 1)
    ]


def names_of(group: object, place: str) -> tuple[str, ...]:
    """Return the synonyms of one class; blanks between two commas are ignored."""
    if isinstance(group, str):
        parts: list[object] = [part for part in _between_commas(group) if part.strip()]
    elif isinstance(group, list | tuple) and all(isinstance(name, str) for name in group):
        parts = list(group)
    else:
        raise UserValueError(f"{place} is {shown(group)}: names must be text")
    if not parts:
        raise UserValueError(f"{place} is blank: name it or leave it out")
    return tuple(clean(part, place) for part in parts)


def _between_semicolons(text: str) -> list[str]:
    """Split a list of classes; a `;` inside a quoted name is part of the name."""
    if '"' not in text:
        return text.split(";")
    masked = QUOTED.sub(lambda found: "_" * len(found[0]), text)
    ends = [index for index, letter in enumerate(masked) if letter == ";"]
    pairs = zip([0, *(end + 1 for end in ends)], [*ends, len(text)], strict=True)
    return [text[start:end] for start, end in pairs]


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
        Row(names_of(numbers[number], f"class {number} of {what}"), f"class {number}", number)
        for number in sorted(numbers)
    ]


def ordered(rows: list[Row], what: str) -> list[Row]:
    """Return the rows ordered by number, if they have numbers.

    Raises `UserError` if only some have numbers, or if two have the same number.
    """
    unnumbered = [row for row in rows if row.number is None]
    if len(unnumbered) == len(rows):
        return rows
    if unnumbered:
        raise UserValueError(f"{what}, {unnumbered[0].place}: has no number, unlike other lines")
    ranked = sorted(rows, key=lambda row: row.number or 0)
    for one, other in itertools.pairwise(ranked):
        if one.number == other.number:
            raise UserValueError(
                f"{what}, {other.place}: has the number {other.number}, as {one.place}; "
                "give each class its own"
            )
    return ranked


def _rows_of_categories(entries: list[Mapping[str, Any]], what: str) -> list[Row]:
    """Return the classes of COCO's categories; a comma is part of a category's name.

    LVIS and the prediction files of this package also have synonyms. Those that several classes
    have are left out with a warning.
    """
    rows = ordered([_category(entry, i, what) for i, entry in enumerate(entries)], what)
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
    others = names_of(entry.get("synonyms") or [name], f"{what}, {place}: synonyms")
    return Row(
        (name, *(other for other in dict.fromkeys(others) if spelling(other) != spelling(name))),
        place,
        None if number is None else int(number),
        None if is_thing is None else bool(is_thing),
    )
