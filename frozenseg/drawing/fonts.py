"""Fonts for pictures: Pillow's own, and where it lacks a letter, one of the machine that has it."""

import importlib.util
import os
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageFont, features

OWN = ""  # stands for the font that comes with Pillow, the same on every machine
FOLDERS = (
    "~/.fonts",
    "~/.local/share/fonts",
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
ENDINGS = (".ttf", ".otf", ".ttc")
RIGHT_TO_LEFT = ("R", "AL")


@lru_cache(maxsize=64)
def font_of(size: int, text: str = "") -> Any:
    """A font of so many pixels that has the letters of `text`; Pillow's own where none has."""
    return _load(font_file(text) or OWN, size)


@lru_cache(maxsize=4096)
def font_file(text: str) -> str | None:
    """The first font that has all signs of `text`, `OWN` before others; None where there is none.

    Letters written from right to left also need Pillow to be built with Raqm, which orders and
    joins them.
    """
    turned = any(unicodedata.bidirectional(sign) in RIGHT_TO_LEFT for sign in text)
    if turned and not features.check("raqm"):
        return None
    signs = sorted(set(text))
    return next((file for file in _files() if all(has_glyph(sign, file) for sign in signs)), None)


@lru_cache(maxsize=65536)
def has_glyph(sign: str, file: str = OWN) -> bool:
    """Whether a font draws this sign as anything but what it has for signs that it lacks."""
    font = _load(file, 20)
    if font is None:
        return False
    missing = font.getmask("\uffff")  # not a character, so every font draws its empty box
    mask = font.getmask(sign)
    return sign == " " or (mask.size, bytes(mask)) != (missing.size, bytes(missing))


@lru_cache(maxsize=64)
def _load(file: str, size: int) -> Any:
    """None for a file that Pillow cannot read."""
    if file == OWN:
        return ImageFont.load_default(size=size)
    try:
        return ImageFont.truetype(file, size)
    except OSError:
        return None


@cache
def _files() -> tuple[str, ...]:
    """Pillow's own, the one that matplotlib brings, and the machine's, plain faces first."""
    found = sorted(_installed(), key=lambda path: ("Regular" not in path.stem, path.name))
    return (OWN, *_of_matplotlib(), *map(str, found))


def _of_matplotlib() -> list[str]:
    """DejaVu Sans, which has Greek, Cyrillic, Arabic, Hebrew; found without importing anything."""
    spec = importlib.util.find_spec("matplotlib")
    places = spec.submodule_search_locations if spec is not None else None
    files = [Path(place, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf") for place in places or ()]
    return [str(path) for path in files if path.is_file()]


def _installed() -> Iterator[Path]:
    for folder in FOLDERS:
        # Without a home folder "~" stays as it is, and nothing is found there.
        for place, _, names in os.walk(os.path.expanduser(folder)):
            yield from (Path(place, name) for name in names if name.lower().endswith(ENDINGS))
