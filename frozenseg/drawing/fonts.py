"""Fonts for pictures: Pillow's own, and for characters that it lacks, Noto or installed fonts."""

import contextlib
import importlib.util
import os
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageFont, features

OWN = ""  # stands for the font that comes with Pillow, which is the same on every machine
FOLDERS = (
    "~/.fonts",
    "~/.local/share/fonts",
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
# Packages of Noto fonts under the Open Font License; the extra `fonts` installs them.
PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")
REGULAR = b"Regular"
ENDINGS = (".ttf", ".otf", ".ttc")
RIGHT_TO_LEFT = ("R", "AL")


@lru_cache(maxsize=64)
def font_of(size: int, text: str = "") -> Any:
    """Return a font of `size` pixels that has all characters of `text`, or else Pillow's own."""
    return _load(font_file(text) or OWN, size)


@lru_cache(maxsize=4096)
def font_file(text: str) -> str | None:
    """Return the first font that has all characters of `text`, starting with `OWN`.

    Returns None if no font has them. Right-to-left text also needs a Pillow with Raqm, which orders
    and joins its letters; without it, None is returned.
    """
    right_to_left = any(unicodedata.bidirectional(sign) in RIGHT_TO_LEFT for sign in text)
    if right_to_left and not features.check("raqm"):
        return None
    signs = sorted(set(text))
    return next((file for file in _files() if all(has_glyph(sign, file) for sign in signs)), None)


@lru_cache(maxsize=65536)
def has_glyph(sign: str, file: str = OWN) -> bool:
    """Tell whether a font has this character, rather than drawing the box for missing ones."""
    font = _load(file, 20)
    if font is None:
        return False
    missing = font.getmask("\uffff")  # not a character, so every font draws its empty box
    mask = font.getmask(sign)
    return sign == " " or (mask.size, bytes(mask)) != (missing.size, bytes(missing))


@lru_cache(maxsize=64)
def _load(file: str, size: int) -> Any:
    """Return the font of a file, or None if Pillow cannot read it."""
    if file == OWN:
        return ImageFont.load_default(size=size)
    try:
        font = ImageFont.truetype(file, size)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # most fonts have a single weight
        if REGULAR in font.get_variation_names():  # the default weight of some fonts is very thin
            font.set_variation_by_name(REGULAR)
    return font


@cache
def _files() -> tuple[str, ...]:
    """Return Pillow's own font, the fonts of `PACKAGES`, that of matplotlib, and installed ones."""
    noto = [file for name in PACKAGES for file in _of_package(name, "") if "Italic" not in file]
    dejavu = _of_package("matplotlib", "mpl-data/fonts/ttf")  # Greek, Cyrillic, Arabic, Hebrew
    dejavu = [file for file in dejavu if file.endswith("DejaVuSans.ttf")]
    installed = sorted(_installed(), key=lambda path: ("Regular" not in path.stem, path.name))
    return (OWN, *noto, *dejavu, *map(str, installed))


def _of_package(name: str, folder: str) -> list[str]:
    """Return the fonts of a package without importing it; [] if it is not installed."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec is not None else None
    files = [file for place in places or () for file in sorted(Path(place, folder).glob("*.*"))]
    return [str(file) for file in files if file.suffix in ENDINGS]


def _installed() -> Iterator[Path]:
    for folder in FOLDERS:
        # Without a home folder "~" is not replaced, and no file is found there.
        for parent, _, names in os.walk(os.path.expanduser(folder)):
            yield from (Path(parent, name) for name in names if name.lower().endswith(ENDINGS))
