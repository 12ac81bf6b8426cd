"""Signed distances of simple shapes: negative inside, zero on the border, positive outside.

Shapes are drawn on a plane whose unit disc roughly holds the object; x points right, y down.
A signed distance gives both the exact mask (the sign at a pixel's centre) and its smooth border.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Field = np.ndarray  # (H, W) float32: one number per pixel centre
Corner = tuple[float, float]


@dataclass(frozen=True)
class Plane:
    """A grid of pixels. x, y: (H, W) coordinates of their centres in the object's own frame."""

    x: Field
    y: Field

    def circle(self, cx: float, cy: float, radius: float) -> Field:
        """Return the signed distance to a circle."""
        return np.hypot(self.x - cx, self.y - cy) - radius

    def ring(self, cx: float, cy: float, radius: float, half_width: float) -> Field:
        """Return the signed distance to a ring; `radius` is that of its middle line."""
        return np.abs(self.circle(cx, cy, radius)) - half_width

    def ellipse(self, cx: float, cy: float, a: float, b: float, degrees: float = 0) -> Field:
        """Return the signed distance to an ellipse of half axes a, b, accurate near its border."""
        angle = np.float32(np.deg2rad(degrees))
        x, y = self.x - cx, self.y - cy
        u = (x * np.cos(angle) + y * np.sin(angle)) / a
        v = (y * np.cos(angle) - x * np.sin(angle)) / b
        level, slope = np.hypot(u, v), np.hypot(u / a, v / b)
        tiny = 1e-6  # the centre, where level and slope are 0, gets minus the shorter half axis
        return (level - 1) * (level + tiny) / (slope + tiny / min(a, b))

    def box(self, cx: float, cy: float, half_width: float, half_height: float) -> Field:
        """Return the signed distance to a rectangle with its sides along the axes."""
        dx = np.abs(self.x - cx) - half_width
        dy = np.abs(self.y - cy) - half_height
        outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
        return outside + np.minimum(np.maximum(dx, dy), 0)

    def bar(self, start: Corner, end: Corner, half_width: float) -> Field:
        """Return the signed distance to a thick line with round ends."""
        (x0, y0), (x1, y1) = start, end
        dx, dy = x1 - x0, y1 - y0
        along = ((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy)
        along = np.clip(along, 0, 1)
        return np.hypot(self.x - x0 - along * dx, self.y - y0 - along * dy) - half_width

    def above(self, height: float) -> Field:
        """Return the signed distance to the half plane above a horizontal line."""
        return self.y - height

    def polygon(self, corners: Sequence[Corner]) -> Field:
        """Return the exact signed distance to a simple polygon (inside by the even-odd rule)."""
        start = np.array(corners, np.float32)[:, :, None, None]  # (E, 2, 1, 1), one row per edge
        end = np.roll(start, -1, axis=0)
        edge = end - start
        px, py = self.x - start[:, 0], self.y - start[:, 1]  # (E, H, W)
        along = (px * edge[:, 0] + py * edge[:, 1]) / (edge**2).sum(axis=1)
        along = np.clip(along, 0, 1)
        gap_x, gap_y = px - along * edge[:, 0], py - along * edge[:, 1]
        distance = np.sqrt((gap_x**2 + gap_y**2).min(axis=0))
        crosses = (start[:, 1] <= self.y) != (end[:, 1] <= self.y)
        left = (edge[:, 0] * py - edge[:, 1] * px) * np.sign(edge[:, 1]) > 0
        inside = (crosses & left).sum(axis=0) % 2 == 1
        return np.where(inside, -distance, distance)


def union(*fields: Field) -> Field:
    """Join shapes: the part that any of them covers."""
    return np.minimum.reduce(fields)


def common(*fields: Field) -> Field:
    """Intersect shapes: the part that all of them cover."""
    return np.maximum.reduce(fields)


def without(field: Field, *cut: Field) -> Field:
    """Subtract shapes: the part of the first that none of the others covers."""
    return np.maximum.reduce([field, *(-other for other in cut)])


def regular_star(points: int, inner: float, outer: float) -> list[Corner]:
    """Return the corners of a star with one point at the top.

    inner, outer: the radii of its inner and outer corners.
    """
    angles = np.arange(2 * points) * np.pi / points - np.pi / 2
    radii = np.where(np.arange(2 * points) % 2 == 0, outer, inner)
    return list(zip(radii * np.cos(angles), radii * np.sin(angles), strict=True))
