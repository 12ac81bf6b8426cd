"""Draw segments on their image, with colours, outlines and names, and a legend beside it."""

from collections.abc import Sequence
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
from frozenseg.drawing.palette import class_colors, picture_colors
from frozenseg.errors import UserError
from frozenseg.structures import Segment

# Pictures have 640 to 2000 pixels on the long side: names must be readable on small images, and
# large images need not be drawn at full size. Tiny images are enlarged at most 16 times.
MIN_SIDE, MAX_SIDE, MAX_ZOOM = 640, 2000, 16
BRIGHT_LINE, DARK_LINE = np.float32(250), np.float32(25)


def draw_segments(
    image: np.ndarray,
    ids: np.ndarray,
    segments: list[Segment],
    legend: bool = True,
    opacity: float = 0.5,
    note: str | None = None,
    names: Sequence[str] = (),
) -> Image.Image:
    """Draw segments over an image, each in its own colour; those of one class look similar.

    The picture has 640-2000 pixels on its long side, without the legend on the right; images with
    fewer than 40 pixels on the long side are enlarged only 16 times. Raises `UserError` if image
    and ids have other shapes, or if the opacity is out of its range.

    image: (H, W, 3) uint8 RGB.
    ids: (H, W) segment ids; pixels whose id is not in `segments` stay uncoloured.
    segments: the segments that the ids refer to.
    legend: whether to add a legend.
    opacity: the opacity of the colours, 0-1.
    note: a warning to print in a band above the picture.
    names: the names of all classes, so that the size of the legend does not depend on the segments.
    """
    if image.ndim != 3 or image.shape[2] != 3 or ids.shape != image.shape[:2]:
        raise UserError(
            "to draw, the image must be (H, W, 3) and the ids (H, W); "
            f"got {image.shape} and {ids.shape}"
        )
    if not 0 <= opacity <= 1:
        raise UserError(f"opacity {opacity:g}: must lie in 0-1")
    size = _drawing_size(ids.shape[0], ids.shape[1])
    rank, order = _ranks(ids, segments)
    small = _resized(rank, size)
    colors = _segment_colors(image, rank, order)
    font = font_of(int(np.clip(round(max(size) / 42), 15, 36)))
    picture = _colored(image, small, colors, size, opacity, thickness=1 + max(size) // 1000)
    _write_names(picture, small, order, colors, font)
    if legend:
        panel = legend_panel(_legend_rows(rank, order, colors), picture.height, font, names)
        picture = beside(picture, panel)
    if note:
        picture = below(note_band(note, max(picture.width, 12 * font.size), font), picture)
    return picture


def _drawing_size(height: int, width: int) -> tuple[int, int]:
    """Return the size (width, height) of the picture."""
    long = max(height, width)
    zoom = MAX_SIDE / long if long > MAX_SIDE else min(max(1.0, MIN_SIDE / long), MAX_ZOOM)
    return max(1, round(width * zoom)), max(1, round(height * zoom))


def _ranks(ids: np.ndarray, segments: list[Segment]) -> tuple[np.ndarray, list[Segment]]:
    """Return ranks (H, W) int32 and the segments by id: rank r is segment r - 1 of this list, and
    rank 0 is no segment."""
    order = sorted(segments, key=lambda segment: segment.id)
    known = np.array([segment.id for segment in order], dtype=np.int64)
    if not len(known):
        return np.zeros(ids.shape, dtype=np.int32), []
    index = np.searchsorted(known, ids).clip(max=len(known) - 1)
    return np.where(known[index] == ids, index + 1, 0).astype(np.int32), order


def _resized(rank: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize ranks to a size (width, height); if they are enlarged, borders become smooth."""
    if size[0] <= rank.shape[1]:
        return np.asarray(Image.fromarray(rank).resize(size, Image.Resampling.NEAREST))
    best, share = np.zeros(size[::-1], np.int32), np.zeros(size[::-1], np.float32)
    for number in np.unique(rank).tolist():
        inside = (rank == number).astype(np.float32)
        own = cv2.resize(inside, size, interpolation=cv2.INTER_CUBIC)
        best, share = np.where(own > share, number, best), np.maximum(own, share)
    return best.astype(np.int32)


def _segment_colors(image: np.ndarray, rank: np.ndarray, order: list[Segment]) -> np.ndarray:
    """Return the colours (len(order) + 1, 3) uint8 by rank; row 0 is for pixels without segment."""
    areas = np.bincount(rank.ravel(), minlength=len(order) + 1).clip(min=1)
    sums = [
        np.bincount(rank.ravel(), channel.ravel(), minlength=len(order) + 1)
        for channel in np.moveaxis(image, 2, 0)
    ]
    grounds = (np.stack(sums, axis=1) / areas[:, None]).round().astype(np.uint8)
    class_ids = np.array([segment.class_id for segment in order], dtype=np.int64)
    is_thing = np.array([segment.is_thing for segment in order], dtype=bool)
    tracks = np.array([segment.track_id or 0 for segment in order], dtype=np.int64)
    if tracks.all():  # in a video, each thing has its own colour, which never changes
        colors = class_colors(np.where(is_thing, tracks - 1, class_ids), is_thing)
    else:
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
    """Return the image at `size` under the colours and outlines of its segments."""
    resample = Image.Resampling.LANCZOS if size[0] < image.shape[1] else Image.Resampling.BICUBIC
    picture = np.asarray(Image.fromarray(image).resize(size, resample), dtype=np.float32)
    overlay = colors[rank].astype(np.float32)
    weight = np.where(rank > 0, np.float32(opacity), 0)[..., None]
    picture = picture * (1 - weight) + overlay * weight
    # A bright line with dark edges is visible on any image.
    for width, grey in ((2 * thickness + 1, DARK_LINE), (thickness, BRIGHT_LINE)):
        line = cv2.GaussianBlur(_outlines(rank, width).astype(np.float32), (3, 3), 0.5)[..., None]
        picture = picture * (1 - line) + grey * line
    return Image.fromarray(picture.round().astype(np.uint8))


def _outlines(rank: np.ndarray, thickness: int) -> np.ndarray:
    """Return a band (h, w) bool, `thickness` pixels wide, along the borders between segments."""
    border = np.zeros(rank.shape, dtype=np.uint8)
    border[:, :-1] |= rank[:, :-1] != rank[:, 1:]
    border[:-1] |= rank[:-1] != rank[1:]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thickness, thickness))
    return cv2.dilate(border, kernel).astype(bool)


def _write_names(
    picture: Image.Image, rank: np.ndarray, order: list[Segment], colors: np.ndarray, font: Any
) -> None:
    """Write the name of each segment at its widest place if there is room, largest segments
    first."""
    labels = Labels(picture, font)
    for number in 1 + np.argsort([-segment.area for segment in order], kind="stable"):
        rows, columns = _extent(rank == number)
        if rows.stop == 0:
            continue  # the segment has vanished when the picture was scaled down
        x, y, distance = inner_point(rank[rows, columns] == number)
        if distance < 0.4 * font.size:
            continue  # a name would hide the entire region; the legend shows the name
        name = printable(order[number - 1].name, instead=number_of(order[number - 1].class_id))
        labels.write(
            name,
            (columns.start + x, rows.start + y),
            _rgb(colors[number]),
            width=max(columns.stop - columns.start, 8 * font.size),
            leeway=distance,
        )


def _extent(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and columns of the bounding box of a mask; empty slices for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _legend_rows(rank: np.ndarray, order: list[Segment], colors: np.ndarray) -> list[LegendRow]:
    """Return one row for each class, the largest area first, and "no class" last."""
    areas = np.bincount(rank.ravel(), minlength=len(order) + 1) / rank.size
    classes: dict[int, list[int]] = {}
    for number, segment in enumerate(order, start=1):
        classes.setdefault(segment.class_id, []).append(number)
    rows = []
    for class_id, ranks in sorted(classes.items(), key=lambda item: -areas[item[1]].sum()):
        first = order[ranks[0] - 1]
        name = printable(first.name, instead=number_of(class_id))
        best = max(order[number - 1].score for number in ranks)
        rows.append(
            LegendRow(
                colors=tuple(_rgb(colors[number]) for number in ranks),
                name=f"{len(ranks)} x {name}" if len(ranks) > 1 else name,
                score="" if np.isnan(best) else f"{best:.2f}",
                share=f"{100 * areas[ranks].sum():.1f} %",
            )
        )
    if areas[0] > 0:
        rows.append(LegendRow((), "no class", "", f"{100 * areas[0]:.1f} %"))
    return rows


def _rgb(color: np.ndarray) -> Color:
    red, green, blue = color.tolist()
    return red, green, blue
