"""The things of the world: their names and their shapes.

To add a noun, write a function `Plane -> list[Part]` that draws it into the unit disc (y points
down), and give it a row in `_ROWS`. For a thing with a single coated part, a function that returns
its signed distance is enough, wrapped in `_one`. Vocabulary, splits, captions and exports follow
the table, and `tests/small_world/test_tables.py` tests every row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from frozenseg.small_world.plane import Corner, Field, Plane, common, regular_star, union, without

COAT = "coat"  # the colour and pattern that a caption names
TRIM = "trim"  # the same colour, dark and plain
BROWN = (0.45, 0.30, 0.18)
CREAM = (0.93, 0.87, 0.74)
DARK = (0.13, 0.13, 0.16)
GLASS = (0.72, 0.87, 0.95)
GREEN = (0.24, 0.52, 0.22)
GOLD = (0.97, 0.78, 0.22)
WHITE = (0.96, 0.96, 0.94)
TRIANGLE: list[Corner] = [(0, -0.9), (0.95, 0.72), (-0.95, 0.72)]


@dataclass(frozen=True)
class Part:
    """One surface of a thing. field: signed distance; paint: COAT, TRIM or a fixed RGB in 0-1."""

    field: Field
    paint: str | tuple[float, float, float]


@dataclass(frozen=True)
class Noun:
    """A thing of the world.

    names: its synonyms; results show the first one.
    parts: the function that draws its surfaces; later ones lie on top.
    tilt: the largest rotation in degrees at which it still looks like itself.
    seen: whether it is annotated in the training masks.
    """

    names: tuple[str, ...]
    parts: Callable[[Plane], list[Part]]
    tilt: float
    seen: bool = True


def _one(shape: Callable[[Plane], Field]) -> Callable[[Plane], list[Part]]:
    """Return a function that draws a thing as a single coated part."""
    return lambda p: [Part(shape(p), COAT)]


def _cross(p: Plane) -> Field:
    return union(p.box(0, 0, 0.9, 0.28), p.box(0, 0, 0.28, 0.9))


def _moon(p: Plane) -> Field:
    return without(p.circle(-0.1, 0, 0.92), p.circle(0.38, -0.12, 0.74))


def _heart(p: Plane) -> Field:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 0.94 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return p.polygon(list(zip(x, y - 0.12, strict=True)))


def _arrow(p: Plane) -> Field:
    half: list[Corner] = [(-0.95, -0.22), (0.12, -0.22), (0.12, -0.66), (0.97, 0)]
    mirrored = [(x, -y) for x, y in reversed(half[:-1])]
    return p.polygon([*half, *mirrored])


def _diamond(p: Plane) -> list[Part]:
    stone: list[Corner] = [(-0.52, -0.68), (0.52, -0.68), (0.95, -0.2), (0, 0.92), (-0.95, -0.2)]
    cuts = [((-0.95, -0.2), (0.95, -0.2)), ((-0.36, -0.2), (0, 0.92)), ((0.36, -0.2), (0, 0.92))]
    crown = [((-0.36, -0.2), (0, -0.68)), ((0.36, -0.2), (0, -0.68))]
    body = p.polygon(stone)
    facets = union(*(p.bar(start, end, 0.03) for start, end in [*cuts, *crown]))
    return [Part(body, COAT), Part(common(facets, body), TRIM)]


def _house(p: Plane) -> list[Part]:
    return [
        Part(p.box(0.42, -0.62, 0.1, 0.25), BROWN),
        Part(p.box(0, 0.36, 0.66, 0.5), COAT),
        Part(p.polygon([(0, -0.95), (0.95, -0.08), (-0.95, -0.08)]), TRIM),
        Part(p.box(-0.22, 0.52, 0.16, 0.34), DARK),
        Part(p.box(0.3, 0.3, 0.18, 0.17), GLASS),
    ]


def _fish(p: Plane) -> list[Part]:
    return [
        Part(p.polygon([(-0.35, 0), (-0.98, -0.52), (-0.82, 0), (-0.98, 0.52)]), TRIM),
        Part(p.polygon([(-0.2, -0.3), (0.3, -0.35), (-0.12, -0.74)]), TRIM),
        Part(p.ellipse(0.2, 0, 0.76, 0.46), COAT),
        Part(p.circle(0.58, -0.1, 0.13), WHITE),
        Part(p.circle(0.61, -0.1, 0.065), DARK),
    ]


def _flower(p: Plane) -> list[Part]:
    turns = np.arange(6) * np.pi / 3
    petals = [p.circle(0.4 * np.cos(t), -0.3 + 0.4 * np.sin(t), 0.27) for t in turns]
    return [
        Part(p.bar((0, 0.1), (0, 0.93), 0.06), GREEN),
        Part(p.ellipse(0.24, 0.66, 0.26, 0.11, -35), GREEN),
        Part(union(*petals), COAT),
        Part(p.circle(0, -0.3, 0.21), GOLD),
        Part(p.ring(0, -0.3, 0.21, 0.03), BROWN),
    ]


def _tree(p: Plane) -> list[Part]:
    crown = [(0, -0.5, 0.46), (-0.42, -0.12, 0.42), (0.42, -0.12, 0.42), (0, 0.05, 0.4)]
    return [
        Part(p.polygon([(-0.11, 0.1), (0.11, 0.1), (0.19, 0.97), (-0.19, 0.97)]), BROWN),
        Part(union(*(p.circle(x, y, radius) for x, y, radius in crown)), COAT),
    ]


def _mushroom(p: Plane) -> list[Part]:
    cap = common(p.ellipse(0, 0.1, 0.95, 0.95), p.above(0.12))
    return [
        Part(p.polygon([(-0.22, 0), (0.22, 0), (0.32, 0.92), (-0.32, 0.92)]), CREAM),
        Part(cap, COAT),
    ]


def _key(p: Plane) -> Field:
    teeth = union(p.box(0.62, 0.2, 0.09, 0.2), p.box(0.87, 0.17, 0.09, 0.17))
    return union(p.ring(-0.55, 0, 0.29, 0.13), p.box(0.3, 0, 0.66, 0.1), teeth)


def _leaf(p: Plane) -> list[Part]:
    blade = common(p.circle(0.12, -0.52, 0.95), p.circle(0.12, 0.52, 0.95))
    veins = [p.bar((x, 0), (x + 0.22, side), 0.025) for x in (-0.4, 0, 0.4) for side in (-0.3, 0.3)]
    rib = p.bar((-0.98, 0), (0.75, 0), 0.04)
    return [Part(blade, COAT), Part(union(rib, common(union(*veins), blade)), TRIM)]


def _cup(p: Plane) -> list[Part]:
    return [
        Part(p.ring(0.5, 0.05, 0.3, 0.1), TRIM),
        Part(p.polygon([(-0.75, -0.55), (0.5, -0.55), (0.36, 0.8), (-0.61, 0.8)]), COAT),
        Part(p.ellipse(-0.125, -0.55, 0.625, 0.16), TRIM),
    ]


def _umbrella(p: Plane) -> list[Part]:
    scallops = [p.circle(x, 0.13, 0.33) for x in (-0.62, 0, 0.62)]
    canopy = without(common(p.circle(0, 0.05, 0.95), p.above(0.05)), *scallops)
    hook = common(p.ring(0.17, 0.72, 0.17, 0.055), -p.above(0.72))
    return [Part(union(p.bar((0, -0.95), (0, 0.72), 0.05), hook), BROWN), Part(canopy, COAT)]


def _boat(p: Plane) -> list[Part]:
    return [
        Part(p.bar((0, -0.92), (0, 0.4), 0.05), BROWN),
        Part(p.polygon([(0.08, -0.85), (0.72, 0.22), (0.08, 0.22)]), WHITE),
        Part(p.polygon([(-0.08, -0.62), (-0.08, 0.22), (-0.56, 0.22)]), CREAM),
        Part(p.polygon([(-0.97, 0.34), (0.97, 0.34), (0.62, 0.86), (-0.62, 0.86)]), COAT),
    ]


def _bell(p: Plane) -> list[Part]:
    right: list[Corner] = [(0.2, -0.78), (0.42, -0.55), (0.5, 0.1), (0.62, 0.38), (0.85, 0.62)]
    left = [(-x, y) for x, y in reversed(right)]
    return [
        Part(p.circle(0, 0.7, 0.2), TRIM),
        Part(p.ring(0, -0.82, 0.11, 0.05), TRIM),
        Part(p.polygon([*right, *left]), COAT),
        Part(p.bar((-0.8, 0.6), (0.8, 0.6), 0.08), TRIM),
    ]


def _car(p: Plane) -> list[Part]:
    cabin = p.polygon([(-0.55, -0.05), (-0.36, -0.52), (0.3, -0.52), (0.56, -0.05)])
    panes = union(p.box(-0.19, -0.24, 0.17, 0.16), p.box(0.19, -0.24, 0.15, 0.16))
    wheels = union(p.circle(-0.5, 0.42, 0.25), p.circle(0.5, 0.42, 0.25))
    hubs = union(p.circle(-0.5, 0.42, 0.1), p.circle(0.5, 0.42, 0.1))
    return [
        Part(union(p.box(0, 0.16, 0.95, 0.25), cabin), COAT),
        Part(panes, GLASS),
        Part(wheels, DARK),
        Part(hubs, WHITE),
    ]


def _butterfly(p: Plane) -> list[Part]:
    upper = [p.ellipse(side * 0.48, -0.32, 0.5, 0.36, side * -38) for side in (-1, 1)]
    lower = [p.ellipse(side * 0.38, 0.4, 0.36, 0.28, side * 40) for side in (-1, 1)]
    feelers = [p.bar((0, -0.5), (side * 0.22, -0.92), 0.03) for side in (-1, 1)]
    return [
        Part(union(*upper, *lower), COAT),
        Part(union(p.ellipse(0, 0, 0.11, 0.6), *feelers), DARK),
    ]


def _apple(p: Plane) -> list[Part]:
    halves = [p.ellipse(side * 0.27, 0.14, 0.55, 0.68, side * 8) for side in (-1, 1)]
    flesh = union(*halves, p.ellipse(0, 0.28, 0.5, 0.5))
    return [
        Part(p.bar((0, -0.4), (0.1, -0.92), 0.06), BROWN),
        Part(p.ellipse(0.36, -0.72, 0.28, 0.13, -25), GREEN),
        Part(flesh, COAT),
    ]


_ROWS = (
    Noun(("star",), _one(lambda p: p.polygon(regular_star(5, 0.45, 1.0))), tilt=36),
    Noun(("circle", "disc"), _one(lambda p: p.circle(0, 0, 0.88)), tilt=180),
    Noun(("square", "box"), _one(lambda p: p.box(0, 0, 0.75, 0.75)), tilt=20),
    Noun(("triangle",), _one(lambda p: p.polygon(TRIANGLE)), tilt=25),
    Noun(("ring", "hoop"), _one(lambda p: p.ring(0, 0, 0.68, 0.22)), tilt=180),
    Noun(("cross", "plus sign"), _one(_cross), tilt=25),
    Noun(("heart",), _one(_heart), tilt=30, seen=False),
    Noun(("moon", "crescent"), _one(_moon), tilt=40, seen=False),
    Noun(("arrow",), _one(_arrow), tilt=180, seen=False),
    Noun(("diamond", "gem"), _diamond, tilt=20),
    Noun(("house", "hut"), _house, tilt=8),
    Noun(("fish",), _fish, tilt=30, seen=False),
    Noun(("flower", "blossom"), _flower, tilt=20),
    Noun(("tree",), _tree, tilt=8),
    Noun(("mushroom", "toadstool"), _mushroom, tilt=20, seen=False),
    Noun(("key",), _one(_key), tilt=180),
    Noun(("leaf",), _leaf, tilt=180),
    Noun(("cup", "mug"), _cup, tilt=15, seen=False),
    Noun(("umbrella", "parasol"), _umbrella, tilt=25, seen=False),
    Noun(("boat", "ship"), _boat, tilt=10),
    Noun(("bell",), _bell, tilt=20),
    Noun(("car", "automobile"), _car, tilt=10),
    Noun(("butterfly", "moth"), _butterfly, tilt=40, seen=False),
    Noun(("apple",), _apple, tilt=20),
)
NOUNS: dict[str, Noun] = {noun.names[0]: noun for noun in _ROWS}
