"""Text on pictures: names cut to a width, labels on regions, the legend and the warning note."""

import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from frozenseg.drawing.fonts import font_file, font_of, has_glyph
from frozenseg.drawing.palette import readable_on

logger = logging.getLogger(__name__)

PANEL = (250, 250, 250)
INK = (30, 30, 30)
FAINT = (100, 100, 100)
WARNING = (255, 193, 7)
ELLIPSIS = "..."


Color = tuple[int, int, int]


@dataclass(frozen=True)
class LegendRow:
    """One row of the legend. colors: the RGB colours of the class's segments; () for "no class"."""

    colors: tuple[Color, ...]
    name: str
    score: str
    share: str


def number_of(class_id: int) -> str:
    """Return the label of a class whose name no font can draw: its number, from 1 as in prediction
    files."""
    return f"class {class_id + 1}"


def printable(text: str, instead: str = "?") -> str:
    """Return a text that a font can draw.

    This is `text` if a font has all its characters. Otherwise, characters that Pillow's font lacks
    are replaced by the same letters without accents if it has these, or else by "?". If no letter
    or digit can be drawn, `instead` is returned.
    """
    text = " ".join(text.split())
    if font_file(text) is not None:
        return text
    plain = "".join(sign if has_glyph(sign) else _nearest_character(sign) for sign in text)
    if any(sign.isalnum() for sign in plain):
        return plain
    if text:
        warn_of_missing_letters()
    return instead


@cache
def warn_of_missing_letters() -> None:
    """Warn once that names cannot be written with the fonts of this machine."""
    logger.warning(
        "pictures: no font of this machine has the letters of some names; they are drawn as the "
        'numbers of their classes; for fonts that have them: pip install "frozenseg[fonts]"'
    )


def fit(text: str, width: float, font: Any) -> str:
    """Return `text`, cut and with an ellipsis if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)  # text[:low] is empty, or fits with an ellipsis
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle].rstrip() + ELLIPSIS) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + ELLIPSIS if low else ""


def wrap(text: str, width: float, font: Any) -> list[str]:
    """Break `text` into lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(fit(word, width, font))
    return lines


def inner_point(mask: np.ndarray) -> tuple[int, int, float]:
    """Return the pixel (x, y) of a mask (h, w) bool that is farthest from its border, and the
    distance."""
    padded = np.pad(mask.astype(np.uint8), 1)  # the edge of the picture counts as a border
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x), int(y), float(distance[y, x])


class Labels:
    """Writes names on a picture, without overlaps and inside its edges."""

    def __init__(self, picture: Image.Image, font: Any) -> None:
        self.size = picture.size
        self.draw = ImageDraw.Draw(picture)
        self.font = font
        self.plates: list[tuple[int, int, int, int]] = []

    def write(
        self, text: str, center: tuple[int, int], color: Color, *, width: int, leeway: float
    ) -> bool:
        """Write `text` on a plate of `color` around `center`; return whether there was room.

        width: the maximum width of the plate in pixels.
        leeway: how far the plate may move up or down, in pixels.
        """
        pad = max(2, round(self.font.size * 0.3))
        font = font_of(self.font.size, text)
        text = fit(text, min(width, self.size[0]) - 2 * pad, font)
        plate_width = round(font.getlength(text)) + 2 * pad
        plate_height = round(self.font.size * 1.2) + pad
        if not text or plate_height > self.size[1]:
            return False
        left = min(max(0, center[0] - plate_width // 2), self.size[0] - plate_width)
        for shift in (0, -plate_height - 1, plate_height + 1):
            top = center[1] + shift - plate_height // 2
            top = min(max(0, top), self.size[1] - plate_height)
            plate = (left, top, left + plate_width, top + plate_height)
            if abs(shift) <= leeway and not any(_overlap(plate, other) for other in self.plates):
                self._draw_plate(text, plate, color, pad)
                return True
        return False

    def _draw_plate(
        self, text: str, plate: tuple[int, int, int, int], color: Color, radius: int
    ) -> None:
        self.plates.append(plate)
        x0, y0, x1, y1 = plate
        ink = readable_on(color)
        self.draw.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius, fill=color, outline=ink)
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)
        font = font_of(self.font.size, text)
        self.draw.text(middle, text, fill=ink, font=font, anchor="mm")


def legend_panel(
    rows: list[LegendRow], height: int, font: Any, names: Sequence[str] = ()
) -> Image.Image:
    """Return the legend; if there is no room for all rows, its last line counts the others.

    It is `height` pixels high, or higher if that leaves no room for a few rows. The column of
    scores is left out if no row has a score.

    names: the names of all rows that may ever occur; with them, the size of the legend does not
        depend on the rows.
    """
    line, margin, swatch = round(font.size * 1.7), font.size, 2 * (font.size // 2)
    name_x = margin + swatch + margin // 2
    texts = [f"9 x {printable(name)}" for name in names] or [row.name for row in rows]
    longest = max((font_of(font.size, text).getlength(text) for text in texts), default=0)
    least = font.getlength(f"and {999 if names else len(rows)} more")
    name_width = round(max(min(longest, 15 * font.size), least)) + 1
    number = round(font.getlength("100.0 %")) + margin
    scored = bool(names) or any(row.score for row in rows)
    score_x = name_x + name_width + number * scored
    share_x = score_x + number
    few = 1 if names else min(len(rows), 8)
    room = max(few, (height - 2 * margin - line) // line)
    shown = rows if len(rows) <= room else rows[: room - 1]
    lines = 1 + len(shown) + (len(shown) < len(rows))
    panel = Image.new("RGB", (share_x + margin, max(height, 2 * margin + line * lines)), PANEL)
    draw = ImageDraw.Draw(panel)

    def write(y: int, ink: Color, name: str, score: str, share: str) -> None:
        own = font_of(font.size, name)
        draw.text((name_x, y), fit(name, name_width, own), fill=ink, font=own, anchor="lm")
        draw.text((score_x, y), score, fill=ink, font=font, anchor="rm")
        draw.text((share_x, y), share, fill=ink, font=font, anchor="rm")

    y = margin + line // 2
    write(y, FAINT, "class", "score" if scored else "", "area")
    for row in shown:
        y += line
        _draw_swatch(draw, (margin, y - swatch // 2), swatch, row.colors)
        write(y, INK if row.colors else FAINT, row.name, row.score, row.share)
    if len(shown) < len(rows):
        write(y + line, FAINT, f"and {len(rows) - len(shown)} more", "", "")
    return panel


def _draw_swatch(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], side: int, colors: tuple[Color, ...]
) -> None:
    """Draw a square with stripes in the first few colours; without colours it is empty."""
    x, y = corner
    shown = colors[: max(1, side // 4)]
    for number, color in enumerate(shown):
        left, right = (x + side * (number + step) // len(shown) for step in (0, 1))
        draw.rectangle((left, y, right, y + side), fill=color)
    draw.rectangle((x, y, x + side, y + side), outline=FAINT)


def note_band(text: str, width: int, font: Any) -> Image.Image:
    """Return a warning in dark letters on a yellow band, `width` pixels wide."""
    margin, line = font.size // 2, round(font.size * 1.4)
    lines = wrap(printable(text), width - 2 * margin, font)
    band = Image.new("RGB", (width, 2 * margin + line * len(lines)), WARNING)
    draw = ImageDraw.Draw(band)
    for index, words in enumerate(lines):
        y = margin + line * (index + 0.5)
        draw.text((width / 2, y), words, fill=INK, font=font, anchor="mm")
    return band


def beside(picture: Image.Image, panel: Image.Image) -> Image.Image:
    """Put `panel` to the right of `picture`."""
    height = max(picture.height, panel.height)
    canvas = Image.new("RGB", (picture.width + panel.width, height), PANEL)
    canvas.paste(picture, (0, 0))
    canvas.paste(panel, (picture.width, 0))
    return canvas


def below(band: Image.Image, picture: Image.Image) -> Image.Image:
    """Put `picture` below `band`."""
    width = max(picture.width, band.width)
    canvas = Image.new("RGB", (width, band.height + picture.height), PANEL)
    canvas.paste(band, (0, 0))
    canvas.paste(picture, (0, band.height))
    return canvas


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _nearest_character(sign: str) -> str:
    base = "".join(c for c in unicodedata.normalize("NFKD", sign) if not unicodedata.combining(c))
    if all(map(has_glyph, base)):
        return base  # empty if the character is only an accent
    return "?"
