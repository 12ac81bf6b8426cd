"""The rules for values of configuration keys: types, ranges, choices, paths.

The keys themselves are in `frozenseg.config_keys`.
"""

import ast
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.errors import UserError, nearest
from frozenseg.files import user_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Range:
    """The allowed numbers of a key, or of each entry if its value is a list.

    low, high: the bounds, inclusive unless `above` or `below` is set.
    above: exclude `low` itself. below: exclude `high` itself.
    only: the only allowed numbers, in place of bounds.
    length: the number of entries of a list; None if it is free, or if the value is not a list.
    fewest: the minimum number of entries of a list.
    """

    low: float = 0
    high: float = 0
    above: bool = False
    below: bool = False
    only: tuple[float, ...] = ()
    length: int | None = None
    fewest: int = 0

    def holds(self, number: float) -> bool:
        """Return whether a number is allowed; NaN never is."""
        if self.only:
            return number in self.only
        low = number > self.low if self.above else number >= self.low
        return low and (number < self.high if self.below else number <= self.high)

    def __str__(self) -> str:
        if self.only:
            *first, last = (f"{number:g}" for number in self.only)
            return f"{', '.join(first)} or {last}"
        low = f"above {_plain(self.low)}" if self.above else f"at least {_plain(self.low)}"
        high = f"below {_plain(self.high)}" if self.below else f"at most {_plain(self.high)}"
        return f"{low} and {high}"


def _plain(number: float) -> str:
    return f"{int(number)}" if number == int(number) and abs(number) < 1e12 else f"{number:g}"


class Rule(Enum):
    """A rule of a key that is neither a range nor a list of choices.

    FIXED: only the default is implemented; with another value, a wrong model would be built
    silently.
    READ, WRITTEN: the key names a file or folder that is read or written; it may begin with "~".
    A path that is read is looked up in the working folder, then beside the YAML file that names
    it, then in the folders above that file. If the YAML file is in a folder of `save_pretrained`,
    files in that folder take precedence.
    READ_BY_SET: each entry of the list is SET=FILE, and the rule READ applies to the file.
    """

    FIXED = "fixed"
    READ = "read"
    WRITTEN = "written"
    READ_BY_SET = "read by set"


FIXED, READ, WRITTEN, READ_BY_SET = Rule

SAVED_CONFIG, SAVED_WEIGHTS = "frozenseg.yaml", "model.safetensors"
"""The two files by which a folder of `save_pretrained` is recognised."""


@dataclass(frozen=True)
class Key:
    """A key of the configuration.

    default: the value if nothing sets the key; other values must have the same type. With None,
        in keys of detectron2, any type is accepted.
    rule: what a value must satisfy besides its type: a range, a tuple of choices, or a `Rule`;
        None if any value of the type is allowed.
    """

    default: Any
    rule: Range | tuple[str, ...] | Rule | None = None


def coerce(name: str, value: Any, key: Key, origin: str, folder: Path | None = None) -> Any:
    """Convert a value to the type of its key's default; raise `UserError` if that fails.

    A tuple is accepted for a list, an int for a float; NumPy numbers and paths are accepted too.
    origin: begins the error messages. folder: the folder of the YAML file that holds the value.
    """
    default = key.default
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        # YAML reads ("a", "b") and 1e-4 as text, and all command-line options are text.
        literal = _literal(value)
        # The name of a folder may look like a number, as 2026_11 does; where text is expected, a
        # number stays text.
        if isinstance(literal, str) or not isinstance(default, str):
            value = literal
    if isinstance(key.rule, tuple) and "yes" in key.rule and isinstance(value, (bool, str)):
        said = str(value).lower()  # YAML reads yes and no as booleans
        value = {"true": "yes", "false": "no"}.get(said, said)
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        return type(default)(_element(name, entry, key, origin, folder) for entry in value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = _float(value)
    if isinstance(default, str) and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if type(value) is not type(default) and default is not None:
        raise UserError(
            f"{origin}: {name} is {shown(value)} ({type(value).__name__}), "
            f"a {type(default).__name__} was expected, e.g. {default!r}"
        )
    return _text(name, value, key, origin, folder) if isinstance(value, str) else value


def _text(name: str, text: str, key: Key, origin: str, folder: Path | None) -> str:
    """Refuse text that no file can hold (a lone surrogate, a NUL) and resolve paths."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(
            f"{origin}: {name} is {shown(text)}: not text that can be written to a file"
        )
    if key.rule in (READ, WRITTEN) and text.startswith("~"):
        text = str(user_path(text))
    return _beside(name, text, folder) if key.rule is READ and folder is not None else text


def _element(name: str, entry: Any, key: Key, origin: str, folder: Path | None = None) -> Any:
    """Convert an entry of a list.

    Entries of DATASETS keys must be names. Where the key has a range, entries must be numbers, and
    whole numbers if all numbers of the default are. Other keys accept any entry.
    """
    if name.startswith("DATASETS."):
        if not isinstance(entry, str):
            raise UserError(f"{origin}: {name} holds {shown(entry)}, names were expected")
        if key.rule is READ_BY_SET:
            data_set, sign, file = entry.rpartition("=")
            return data_set + sign + _text(name, file, Key("", READ), origin, folder)
        return entry
    if isinstance(entry, str) and isinstance(number := _literal(entry), (int, float)):
        entry = number
    elif isinstance(entry, (list, tuple)):
        entry = [_element("", part, Key(None), origin) for part in entry]
    if not isinstance(key.rule, Range):
        return entry
    if isinstance(entry, bool) or not isinstance(entry, (int, float)):
        raise UserError(f"{origin}: {name} holds {shown(entry)}, numbers were expected")
    whole = all(isinstance(number, int) for number in key.default)
    if whole and isinstance(entry, float) and math.isfinite(entry):
        if not entry.is_integer():
            raise UserError(f"{origin}: {name} holds {shown(entry)}, whole numbers were expected")
        entry = int(entry)
    return entry


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def _literal(text: str) -> Any:
    """Evaluate a text as a Python literal; return the text itself if it is not one."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text.lower(), text)


def shown(value: Any, most: int = 80, *, quoted: bool = True) -> str:
    """Format a value for a message, cut to `most` characters. quoted: put text in quotes."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**most:
        return "a number with too many digits to show"
    text = value if isinstance(value, str) and value.isprintable() and not quoted else repr(value)
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _beside(name: str, text: str, folder: Path) -> str:
    """Find a file that a YAML file in `folder` names; return the path where it exists.

    The working folder comes first, then `folder` and the folders above it. In a folder of
    `save_pretrained`, its own files come first, because such a folder is self-contained.
    """
    path = Path(text)
    # A text without a separator or a suffix is a tag or a name, not a path.
    is_file = (os.sep in text or path.suffix) and "://" not in text
    saved = all((folder / name).is_file() for name in (SAVED_CONFIG, SAVED_WEIGHTS))
    own = saved and os.path.exists(folder / path)
    if is_file and not path.is_absolute() and (own or not os.path.exists(text)):
        for parent in (folder.absolute(), *folder.absolute().parents):
            if os.path.exists(parent / path):
                logger.info("%s %s: taken from %s", name, text, parent)
                return str(parent / path)
    return text


def check_values(keys: Mapping[str, Key], value_of: Callable[[str], Any]) -> None:
    """Refuse values that break the rule of their key.

    value_of: returns the value of a key.
    """
    for name, key in keys.items():
        value, rule = value_of(name), key.rule
        if isinstance(rule, Range):
            _check_numbers(name, value, rule)
        elif isinstance(rule, tuple) and value not in rule:
            raise UserError(
                f"{name} {shown(value, quoted=False)}: must be one of {', '.join(rule)}; "
                f"{nearest(value, list(rule))}"
            )
        elif rule is FIXED and value != key.default:
            raise UserError(f"{name} {shown(value, quoted=False)}: only {key.default} is supported")
    low, high = value_of("INPUT.MIN_SCALE"), value_of("INPUT.MAX_SCALE")
    if low > high:
        raise UserError(f"INPUT.MIN_SCALE {low}: must not be above INPUT.MAX_SCALE {high}")


def _check_numbers(name: str, value: Any, bounds: Range) -> None:
    numbers = value if isinstance(value, (list, tuple)) else [value]
    if bounds.length is not None and len(numbers) != bounds.length:
        raise UserError(f"{name} {shown(value)}: {bounds.length} numbers are needed")
    if len(numbers) < bounds.fewest:
        raise UserError(f"{name} {shown(value)}: at least {bounds.fewest} number is needed")
    for number in numbers:
        if not bounds.holds(number):
            raise UserError(f"{name} {shown(value)}: must be {bounds}")
