"""What the values of configuration keys may be: types, ranges, choices, paths.

The keys themselves stand in `frozenseg.config_keys`.
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
    """The numbers that a key takes, or that each entry of a list takes.

    low, high: the bounds, which are allowed themselves.
    above: whether `low` is not allowed. below: whether `high` is not allowed.
    only: the few numbers that are allowed, in place of bounds.
    length: the number of entries of a list; None: any number, or the key has no list.
    fewest: the fewest entries of a list.
    """

    low: float = 0
    high: float = 0
    above: bool = False
    below: bool = False
    only: tuple[float, ...] = ()
    length: int | None = None
    fewest: int = 0

    def holds(self, number: float) -> bool:
        """Whether a number is allowed; NaN never is."""
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
    """A rule of a key that neither a range nor choices can say.

    FIXED: only the default is built; another value would silently make the wrong model.
    READ, WRITTEN: the key names a file or folder that is read or written, and may begin with "~".
    What is read is looked for in the working folder, then beside the YAML file that names it, and
    in the folders above that. In a folder of `save_pretrained`, what lies there comes first.
    READ_BY_SET: each entry of the list is SET=FILE, and the file is READ.
    """

    FIXED = "fixed"
    READ = "read"
    WRITTEN = "written"
    READ_BY_SET = "read by set"


FIXED, READ, WRITTEN, READ_BY_SET = Rule

SAVED_CONFIG, SAVED_WEIGHTS = "frozenseg.yaml", "model.safetensors"
"""Files of a folder of `save_pretrained`, which together tell that it is one."""


@dataclass(frozen=True)
class Key:
    """A key of the configuration.

    default: its value where nobody sets it; other values must be of the same type. None, in keys of
        detectron2, takes any type.
    rule: what else a value must be: within a range, or one of some choices, or by a `Rule`; None:
        the type is all.
    """

    default: Any
    rule: Range | tuple[str, ...] | Rule | None = None


def coerce(name: str, value: Any, key: Key, origin: str, folder: Path | None = None) -> Any:
    """Convert a value to the type of the default of its key; raise `UserError` if that fails.

    A list may be given as a tuple, a float as a whole number, and numbers of numpy and paths are
    taken too. origin: begins the messages. folder: that of the YAML file with the value.
    """
    default = key.default
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        # YAML reads ("a", "b") and 1e-4 as text, and all options of a command line are text.
        literal = _literal(value)
        # The name of a folder may spell a number, as 2026_11 does, so text stays text.
        if isinstance(literal, str) or not isinstance(default, str):
            value = literal
    if isinstance(key.rule, tuple) and "yes" in key.rule and isinstance(value, (bool, str)):
        said = str(value).lower()  # YAML reads yes and no as truth values
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
    """Refuse text with half a character or a NUL, which no file can hold, and find files."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(
            f"{origin}: {name} is {shown(text)}: not text that can be written to a file"
        )
    if key.rule in (READ, WRITTEN) and text.startswith("~"):
        text = str(user_path(text))
    return _beside(name, text, folder) if key.rule is READ and folder is not None else text


def _element(name: str, entry: Any, key: Key, origin: str, folder: Path | None = None) -> Any:
    """Convert an entry of a list: to a name for data sets, and to a number where the key has a
    range, a whole one if those of the default are. Other keys take anything."""
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
    """Read the Python literal that a text spells, or return the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text.lower(), text)


def shown(value: Any, most: int = 80, *, quoted: bool = True) -> str:
    """Format a value for a message, cut to `most` characters. quoted: put text in quotes."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**most:
        return "a number of more digits than can be shown"
    text = value if isinstance(value, str) and value.isprintable() and not quoted else repr(value)
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _beside(name: str, text: str, folder: Path) -> str:
    """Find a file that a YAML file in `folder` names, unless it is in the working folder; a folder
    of `save_pretrained` is whole, whatever lies in the working folder."""
    path = Path(text)
    is_file = (os.sep in text or path.suffix) and "://" not in text  # else a tag or a name
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
