"""Outlines of masks as polygons, exact to the pixel, and label files in YOLO's format."""

import cv2
import numpy as np

from frozenseg.structures import InstanceResult


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Return a polygon (M, 2) for each connected part of a mask (H, W) bool.

    A polygon follows the edges of pixels, in coordinates (x, y) from 0 to W and 0 to H; filling it
    gives the part again. A part with holes is one polygon, which is connected to each hole by a
    bridge without area. Parts that touch at a corner are one part.
    """
    # At twice the size, a pixel becomes a pair whose first element has an even coordinate and whose
    # last has an odd one, so the coordinate of a border pixel shows on which side the border is.
    doubled = mask.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    found, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if tree is None:
        return []
    rings = [_corners((contour[:, 0] + 1) // 2) for contour in found]
    parents = tree[0, :, 3]
    return [
        joined([rings[part], *(rings[hole] for hole in np.flatnonzero(parents == part))])
        for part in np.flatnonzero(parents < 0)
    ]


def joined(rings: list[np.ndarray]) -> np.ndarray:
    """Join rings (M, 2) into one, which goes from the start of the first to each other ring and
    back."""
    first, *others = rings
    if not others:
        return first
    closed = [np.concatenate([ring, ring[:1]]) for ring in (first, *others)]
    back = np.repeat(first[:1], len(others), axis=0)
    parts = [closed[0]]
    for ring, start in zip(closed[1:], back, strict=True):
        parts += [ring, start[None]]
    return np.concatenate(parts[:-1])


def _corners(ring: np.ndarray) -> np.ndarray:
    """Remove the points of a ring that are repeated or on a line between their neighbours."""
    ring = ring[(ring != np.roll(ring, 1, 0)).any(1)]
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def yolo_text(objects: InstanceResult) -> str:
    """Return one line for each object: its class id, then x and y of its outline from 0 to 1.

    An object of several parts is one polygon, as the format requires; bridges without area join
    the parts. An object with an empty mask has no line.
    """
    height, width = objects.masks.shape[1:]
    lines = []
    for class_id, mask in zip(objects.class_ids.tolist(), objects.masks, strict=True):
        if rings := outlines(mask):
            points = joined(rings) / [width, height]
            lines.append(" ".join([str(class_id), *(f"{place:.6g}" for place in points.ravel())]))
    return "".join(f"{line}\n" for line in lines)
