"""Results drawn on their image: colours, outlines, names, and a legend beside it."""

from typing import Any

import cv2
import numpy as np
from PIL import Image

from frozenseg.drawing.lettering import (
    Color,
    Labels,
    LegendRow,
    below,
    beside,
    font_of,
    inner_point,
    legend_panel,
    note_band,
    number_of,
    printable,
)
from frozenseg.drawing.palette import picture_colors
from frozenseg.errors import UserError
from frozenseg.structures import Segment

# The picture is drawn at 640 to 2000 pixels on its long side: names must be readable on the small,
# and the large need not be drawn at full size. Tiny images grow no more than sixteenfold.
MIN_SIDE, MAX_SIDE, MAX_ZOOM = 640, 2000, 16
BRIGHT_LINE, DARK_LINE = np.float32(250), np.float32(25)


def draw_segments(
    image: np.ndarray,
    ids: np.ndarray,
    segments: list[Segment],
    legend: bool = True,
    opacity: float = 0.5,
    note: str | None = None,
) -> Image.Image:
    """Draw segments over an image, each in a colour of its own, those of one class alike.

    image: (H, W, 3) uint8 RGB. ids: (H, W) segment ids; those not in `segments` stay uncoloured.
    opacity: 0-1, of the colours. note: a warning, printed in a band above the picture. The
    picture is scaled to 640-2000 pixels on its long side; the legend stands at its right.
    """
    if image.ndim != 3 or image.shape[2] != 3 or ids.shape != image.shape[:2]:
        raise UserError(
            "to draw, the image must be (H, W, 3) and the ids (H, W); "
            f"got {image.shape} and {ids.shape}"
        )
    size = _drawing_size(ids.shape[0], ids.shape[1])
    rank, order = _ranks(ids, segments)
    small = np.asarray(Image.fromarray(rank).resize(size, Image.Resampling.NEAREST))
    colors = _segment_colors(image, rank, order)
    font = font_of(int(np.clip(round(max(size) / 55), 13, 30)))
    picture = _colored(image, small, colors, size, opacity, thickness=1 + max(size) // 1000)
    _write_names(picture, small, order, colors, font)
    if legend:
        panel = legend_panel(_legend_rows(rank, order, colors), picture.height, font)
        picture = beside(picture, panel)
    if note:
        picture = below(note_band(note, max(picture.width, 12 * font.size), font), picture)
    return picture


def _drawing_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) to draw at, for Pillow."""
    long = max(height, width)
    zoom = MAX_SIDE / long if long > MAX_SIDE else min(max(1.0, MIN_SIDE / long), MAX_ZOOM)
    return max(1, round(width * zoom)), max(1, round(height * zoom))


def _ranks(ids: np.ndarray, segments: list[Segment]) -> tuple[np.ndarray, list[Segment]]:
    """(H, W) int32 places, 0 for no segment; place p is segment p - 1 of the list returned."""
    order = sorted(segments, key=lambda segment: segment.id)
    known = np.array([segment.id for segment in order], dtype=np.int64)
    if not len(known):
        return np.zeros(ids.shape, dtype=np.int32), []
    place = np.searchsorted(known, ids).clip(max=len(known) - 1)
    return np.where(known[place] == ids, place + 1, 0).astype(np.int32), order


def _segment_colors(image: np.ndarray, rank: np.ndarray, order: list[Segment]) -> np.ndarray:
    """(len(order) + 1, 3) uint8; row 0 is for pixels of no segment."""
    areas = np.bincount(rank.ravel(), minlength=len(order) + 1).clip(min=1)
    sums = [
        np.bincount(rank.ravel(), channel.ravel(), minlength=len(order) + 1)
        for channel in np.moveaxis(image, 2, 0)
    ]
    grounds = (np.stack(sums, axis=1) / areas[:, None]).round().astype(np.uint8)
    class_ids = np.array([segment.class_id for segment in order], dtype=np.int64)
    is_thing = np.array([segment.is_thing for segment in order], dtype=bool)
    colors = picture_colors(class_ids, is_thing, grounds[1:])
    return np.concatenate([np.zeros((1, 3), dtype=np.uint8), colors])


def _colored(
    image: np.ndarray,
    rank: np.ndarray,
    colors: np.ndarray,
    size: tuple[int, int],
    opacity: float,
    thickness: int,
) -> Image.Image:
    """The image at drawing size with the segments' colours over it and their outlines."""
    resample = Image.Resampling.LANCZOS if size[0] < image.shape[1] else Image.Resampling.BICUBIC
    picture = np.asarray(Image.fromarray(image).resize(size, resample), dtype=np.float32)
    overlay = colors[rank].astype(np.float32)
    weight = np.where(rank > 0, np.float32(opacity), 0)[..., None]
    picture = picture * (1 - weight) + overlay * weight
    # Bright inside and dark around it, so that one of both shows on any ground.
    line, edge = (_outlines(rank, width)[..., None] for width in (thickness, 2 * thickness + 1))
    picture = np.where(edge, DARK_LINE, picture)
    return Image.fromarray(np.where(line, BRIGHT_LINE, picture).round().astype(np.uint8))


def _outlines(rank: np.ndarray, thickness: int) -> np.ndarray:
    """(h, w) bool, the pixels of a band `thickness` wide along the borders between segments."""
    border = np.zeros(rank.shape, dtype=np.uint8)
    border[:, :-1] |= rank[:, :-1] != rank[:, 1:]
    border[:-1] |= rank[:-1] != rank[1:]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thickness, thickness))
    return cv2.dilate(border, kernel).astype(bool)


def _write_names(
    picture: Image.Image, rank: np.ndarray, order: list[Segment], colors: np.ndarray, font: Any
) -> None:
    """Write each segment's name where it is widest, the largest first, as far as there is room."""
    labels = Labels(picture, font)
    for place in 1 + np.argsort([-segment.area for segment in order], kind="stable"):
        rows, columns = _extent(rank == place)
        if rows.stop == 0:
            continue  # lost when the picture was scaled down
        x, y, distance = inner_point(rank[rows, columns] == place)
        if distance < 0.4 * font.size:
            continue  # a name would hide the whole region; the legend has it
        name = printable(order[place - 1].name, instead=number_of(order[place - 1].class_id))
        labels.write(
            name,
            (columns.start + x, rows.start + y),
            _rgb(colors[place]),
            width=max(columns.stop - columns.start, 8 * font.size),
            leeway=distance,
        )


def _extent(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around a mask; both end at 0 if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _legend_rows(rank: np.ndarray, order: list[Segment], colors: np.ndarray) -> list[LegendRow]:
    """One row for each class, the largest area first; what belongs to none comes last."""
    areas = np.bincount(rank.ravel(), minlength=len(order) + 1) / rank.size
    classes: dict[int, list[int]] = {}
    for place, segment in enumerate(order, start=1):
        classes.setdefault(segment.class_id, []).append(place)
    rows = []
    for class_id, places in sorted(classes.items(), key=lambda item: -areas[item[1]].sum()):
        first = order[places[0] - 1]
        name = printable(first.name, instead=number_of(class_id))
        best = max(order[place - 1].score for place in places)
        rows.append(
            LegendRow(
                colors=tuple(_rgb(colors[place]) for place in places),
                name=f"{len(places)} x {name}" if len(places) > 1 else name,
                score="" if np.isnan(best) else f"{best:.2f}",
                share=f"{100 * areas[places].sum():.1f} %",
            )
        )
    if areas[0] > 0:
        rows.append(LegendRow((), "no class", "", f"{100 * areas[0]:.1f} %"))
    return rows


def _rgb(color: np.ndarray) -> Color:
    red, green, blue = color.tolist()
    return red, green, blue
