"""Signed distances against OpenCV's polygons and against the nearest of many border points."""

import cv2
import numpy as np
import pytest

from frozenseg.small_world.plane import Plane, common, regular_star, union, without

CORNERS = [(-0.9, -0.6), (0.1, -0.8), (0.9, 0.1), (0.2, 0.0), (0.4, 0.9), (-0.7, 0.5)]


def plane(side: int = 61) -> Plane:
    y, x = np.mgrid[-1.2 : 1.2 : side * 1j, -1.2 : 1.2 : side * 1j].astype(np.float32)
    return Plane(x, y)


def nearest_border(p: Plane, border: np.ndarray) -> np.ndarray:
    """(H, W) distance to the closest of (N, 2) points (x, y)."""
    gaps = np.hypot(p.x[..., None] - border[:, 0], p.y[..., None] - border[:, 1])
    return gaps.min(axis=-1)


@pytest.mark.parametrize("corners", [CORNERS, regular_star(5, 0.45, 1.0)])
def test_polygon_is_opencvs(corners: list[tuple[float, float]]) -> None:
    p = plane()
    contour = np.array(corners, np.float32)[:, None]
    slow = np.array(
        [
            [
                -cv2.pointPolygonTest(contour, (float(x), float(y)), True)
                for x, y in zip(*row, strict=True)
            ]
            for row in zip(p.x, p.y, strict=True)
        ]
    )
    np.testing.assert_allclose(p.polygon(corners), slow, atol=1e-5)


def test_box_and_bar_and_circle_are_exact() -> None:
    p = plane()
    turns = np.linspace(0, 2 * np.pi, 4000)
    circle = np.stack([0.1 + 0.5 * np.cos(turns), -0.2 + 0.5 * np.sin(turns)], axis=1)
    np.testing.assert_allclose(
        np.abs(p.circle(0.1, -0.2, 0.5)), nearest_border(p, circle), atol=2e-3
    )
    box = [(-0.5, -0.3), (0.5, -0.3), (0.5, 0.3), (-0.5, 0.3)]
    np.testing.assert_allclose(p.box(0, 0, 0.5, 0.3), p.polygon(box), atol=1e-6)
    along = np.linspace(0, 1, 4000)
    line = np.stack([-0.4 + 0.9 * along, 0.1 + 0.5 * along], axis=1)
    bar = p.bar((-0.4, 0.1), (0.5, 0.6), 0.2)
    np.testing.assert_allclose(bar, nearest_border(p, line) - 0.2, atol=1e-3)


def test_ellipse_is_right_in_sign_and_close_near_its_border() -> None:
    p = plane(75)
    turns = np.linspace(0, 2 * np.pi, 3000)
    angle = np.deg2rad(25)
    u, v = 0.8 * np.cos(turns), 0.4 * np.sin(turns)
    border = np.stack(
        [u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)], axis=1
    )
    distance = p.ellipse(0, 0, 0.8, 0.4, 25)
    true = nearest_border(p, border)
    near = true < 0.05  # two pixels of a thing with a radius of 40
    np.testing.assert_allclose(np.abs(distance[near]), true[near], atol=0.01)
    contour = (border * 1000).round().astype(np.int32)[:, None]
    inside = [
        cv2.pointPolygonTest(contour, (1000 * float(x), 1000 * float(y)), False) > 0
        for x, y in zip(p.x.ravel(), p.y.ravel(), strict=True)
    ]
    clear = true.ravel() > 0.003
    np.testing.assert_array_equal((distance.ravel() < 0)[clear], np.array(inside)[clear])


def test_shapes_combine_as_sets() -> None:
    p = plane()
    a, b = p.circle(-0.2, 0, 0.5), p.box(0.3, 0, 0.41, 0.41)  # no pixel centre on a border
    inside_a, inside_b = a < 0, b < 0
    np.testing.assert_array_equal(union(a, b) < 0, inside_a | inside_b)
    np.testing.assert_array_equal(common(a, b) < 0, inside_a & inside_b)
    np.testing.assert_array_equal(without(a, b) < 0, inside_a & ~inside_b)
