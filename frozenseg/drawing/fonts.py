"""Fonts for pictures: Pillow's own, or one of the machine for letters that it lacks."""

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
    """A font of `size` pixels that has the letters of `text`, or Pillow's own if none has."""
    return _load(font_file(text) or OWN, size)


@lru_cache(maxsize=4096)
def font_file(text: str) -> str | None:
    """The first font that has all characters of `text`, starting with `OWN`; None if none has.

    Text from right to left also needs a Pillow with Raqm, which orders and joins its letters.
    """
    right_to_left = any(unicodedata.bidirectional(sign) in RIGHT_TO_LEFT for sign in text)
    if right_to_left and not features.check("raqm"):
        return None
    signs = sorted(set(text))
    return next((file for file in _files() if all(has_glyph(sign, file) for sign in signs)), None)


@lru_cache(maxsize=65536)
def has_glyph(sign: str, file: str = OWN) -> bool:
    """Whether a font has this character, and does not draw the box for missing ones."""
    font = _load(file, 20)
    if font is None:
        return False
    missing = font.getmask("\uffff")  # not a character, so every font draws its empty box
    mask = font.getmask(sign)
    return sign == " " or (mask.size, bytes(mask)) != (missing.size, bytes(missing))


@lru_cache(maxsize=64)
def _load(file: str, size: int) -> Any:
    """The font of a file, or None if Pillow cannot read it."""
    if file == OWN:
        return ImageFont.load_default(size=size)
    try:
        return ImageFont.truetype(file, size)
    except OSError:
        return None


@cache
def _files() -> tuple[str, ...]:
    """Pillow's own font, that of matplotlib, and those of the machine, regular faces first."""
    installed = sorted(_installed(), key=lambda path: ("Regular" not in path.stem, path.name))
    return (OWN, *_of_matplotlib(), *map(str, installed))


def _of_matplotlib() -> list[str]:
    """DejaVu Sans (Greek, Cyrillic, Arabic, Hebrew); matplotlib is not imported."""
    spec = importlib.util.find_spec("matplotlib")
    folders = spec.submodule_search_locations if spec is not None else None
    files = [Path(folder, "mpl-data/fonts/ttf/DejaVuSans.ttf") for folder in folders or ()]
    return [str(path) for path in files if path.is_file()]


def _installed() -> Iterator[Path]:
    for folder in FOLDERS:
        # Without a home folder "~" is not replaced, and no file is found there.
        for parent, _, names in os.walk(os.path.expanduser(folder)):
            yield from (Path(parent, name) for name in names if name.lower().endswith(ENDINGS))
