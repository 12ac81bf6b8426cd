"""Read the fields of annotation and prediction files.

Training, checking and scoring accept the same files because they all use these functions. A whole
number may be written as 7 or 7.0, and a flag as 0, 1, true or false, also in quotation marks; null
means absent. Anything else raises a `UserError` that begins with `where`: the file and the entry.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from frozenseg.errors import UserError

LARGEST_ID = 2**63 - 1
LONGEST_NAME, LONGEST_PATH = 255, 4096  # bytes that file systems allow

Groups = Sequence[tuple[str, list[dict[str, Any]]]]
"""Groups of entries: for each group, the text `where` that begins its messages, and its entries."""

_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def section(content: Any, key: str, source: str) -> list[dict[str, Any]]:
    """Read the list of objects under `key` of a JSON object."""
    if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
        raise UserError(f"{source}: has no list {key!r}; a JSON object in COCO's format has one")
    return entries(content[key], f"{source}: {key}")


def entries(value: Any, source: str) -> list[dict[str, Any]]:
    """Return `value`, which must be a list of JSON objects."""
    if not isinstance(value, list):
        raise UserError(f"{source}: a list was expected, found {type(value).__name__}")
    if set(map(type, value)) <= {dict}:
        return value
    i, wrong = next((i, entry) for i, entry in enumerate(value) if type(entry) is not dict)
    raise UserError(f"{source}[{i}]: an object was expected, found {type(wrong).__name__}")


def required(entry: Mapping[str, Any], key: str, where: str) -> Any:
    """Read a field that must be there."""
    value = entry.get(key)
    if value is None:
        raise UserError(f"{where}: has no {key!r}; add it as in COCO's format")
    return value


def whole(
    entry: Mapping[str, Any], key: str, where: str, low: int = 0, high: int = LARGEST_ID
) -> int:
    """Read a whole number from `low` to `high`."""
    value = required(entry, key, where)
    if type(value) is float and value.is_integer():  # NaN and infinity are not integers
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise unusable(value, key, where, f"a whole number from {low} to {high}")
    return value


def wholes(groups: Groups, key: str, low: int = 0, high: int = LARGEST_ID) -> list[int]:
    """Read the whole numbers of many entries, as `whole` does, but faster."""
    values: list[Any] = [row.get(key) for _, rows in groups for row in rows]
    if set(map(type, values)) == {int} and low <= min(values) and max(values) <= high:
        return values
    return [whole(row, key, where, low, high) for where, rows in groups for row in rows]


def number(entry: Mapping[str, Any], key: str, where: str) -> float:
    """Read a finite number."""
    value = required(entry, key, where)
    if not is_number(value):
        raise unusable(value, key, where, "a finite number")
    return float(value)


def is_number(value: Any) -> bool:
    """Tell whether a JSON value is a finite float or an integer in 64 bits, not true or false."""
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is int and abs(value) < 2**63


def flag(entry: Mapping[str, Any], key: str, where: str, default: bool) -> bool:
    """Read a flag; `default` where it is absent."""
    value = entry.get(key)
    if value is None:
        return default
    switch = _FLAGS.get(str(value).strip().lower())
    if switch is None:
        raise unusable(value, key, where, "0 or 1")
    return switch


def flags(groups: Groups, key: str, default: bool) -> list[bool]:
    """Read the flags of many entries, as `flag` does, but faster."""
    values = [row.get(key) for _, rows in groups for row in rows]
    if set(map(type, values)) <= {int, bool} and set(values) <= {0, 1}:
        return list(map(bool, values))
    return [flag(row, key, where, default) for where, rows in groups for row in rows]


def text(entry: Mapping[str, Any], key: str, where: str) -> str:
    """Read text that is not empty."""
    value = required(entry, key, where)
    if not isinstance(value, str) or not value.strip():
        raise unusable(value, key, where, "text that is not empty")
    return value


def file_name(entry: Mapping[str, Any], key: str, where: str) -> str:
    """Read a path that a file can have."""
    value = text(entry, key, where)
    if value.rpartition("/")[2] in ("", ".", "..") or "\0" in value:
        raise unusable(value, key, where, "the name of a file")
    if 4 * len(value) <= LONGEST_NAME:  # a character has at most four bytes
        return value
    parts = value.encode("utf-8", "replace").split(b"/")
    if sum(map(len, parts)) > LONGEST_PATH or max(map(len, parts)) > LONGEST_NAME:
        raise unusable(value, key, where, f"a name of at most {LONGEST_NAME} bytes")
    return value


def image_id(entry: Mapping[str, Any], key: str, where: str) -> int | str:
    """Read an image id: a whole number, or a name as in files of ADE20K and Cityscapes."""
    if isinstance(entry.get(key), str):
        return text(entry, key, where)
    return whole(entry, key, where)


def unusable(value: Any, key: str, where: str, expected: str) -> UserError:
    """Make the error for a field of a wrong type or out of its range."""
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
    return UserError(f"{where}: {key!r} is {shown}, expected {expected}; correct it")
