"""The layout of a scene: which grounds it has and where they lie."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from frozenseg.small_world.chance import pick
from frozenseg.small_world.grounds import FLOOR, GROUNDS, LAND, RIDGE, TOP, WALL
from frozenseg.small_world.noise import Field, mix, pixel_grid

ALL_PLACES = (TOP, RIDGE, LAND, WALL, FLOOR)
# Draws the name of a ground that fits one of the given places; `but` names a ground to leave out.
Draw = Callable[..., str]
SHARES = {"single": 0.25, "outdoors": 0.4, "indoors": 0.2, "patches": 0.15}


@dataclass
class Layout:
    """The grounds of a scene.

    grounds: 1-3 names. index: (H, W) int, the position in `grounds` at each pixel. image: (H, W, 3)
    float32 RGB in 0-1. horizon: y in pixels above which nothing stands; 0 if there is none.
    """

    grounds: list[str]
    index: np.ndarray
    image: np.ndarray
    horizon: float


def make_layout(
    generator: np.random.Generator, height: int, width: int, *, unseen_weight: float = 1.0
) -> Layout:
    """Arrange grounds: a single one, sky over land, wall over floor, or two patches of land.

    unseen_weight: as in `SceneOptions`.
    """
    draw = partial(_pick, generator, unseen_weight)
    arrangement = generator.choice(list(SHARES), p=list(SHARES.values()))
    y, x = pixel_grid(height, width)
    horizon, borders = 0.0, list[Field]()
    if arrangement == "single":
        names = [draw(ALL_PLACES)]
    elif arrangement == "outdoors":
        horizon = height * generator.uniform(0.3, 0.5)
        names, borders = _outdoors(generator, draw, x, horizon)
    elif arrangement == "indoors":
        horizon = height * generator.uniform(0.4, 0.6)
        wall = draw((WALL,))
        names = [wall, draw((FLOOR,), but=wall)]
        borders = [np.full_like(y, horizon)]
    else:
        names, borders = _patches(generator, draw, x)
    below = [y - border for border in borders]  # signed pixels; ground n + 1 lies below border n
    index = np.zeros((height, width), np.int64)
    for position, distance in enumerate(below, 1):
        index[distance > 0] = position
    return Layout(names, index, _render(generator, names, below, (height, width)), horizon)


def _outdoors(
    generator: np.random.Generator, draw: Draw, x: Field, horizon: float
) -> tuple[list[str], list[Field]]:
    """Arrange a sky, sometimes mountains, one land, and sometimes a second land in front of it."""
    height, width = x.shape
    line = horizon + _wave(generator, x, 0.015 * height)
    names, borders = [draw((TOP,))], []
    if generator.random() < 0.35:
        peaks = horizon * generator.uniform(0.25, 0.5)
        borders.append(line - 6 - np.abs(_wave(generator, x, peaks, octaves=4)))
        names.append(draw((RIDGE,)))
    borders.append(line)
    land = draw((LAND,))
    names.append(land)
    if generator.random() < 0.35 and len(names) < 3:
        shore = horizon + (height - horizon) * generator.uniform(0.45, 0.7)
        borders.append(shore + _wave(generator, x, 0.05 * height))
        names.append(draw((LAND,), but=land))
    return names, borders


def _patches(generator: np.random.Generator, draw: Draw, x: Field) -> tuple[list[str], list[Field]]:
    """Arrange two lands, seen from above, on the two sides of a slanting, curved border."""
    height, width = x.shape
    slope = generator.uniform(-0.5, 0.5) * height / width
    middle = height * generator.uniform(0.4, 0.6)
    border = middle + slope * (x - width / 2) + _wave(generator, x, 0.07 * height)
    land = draw((LAND,))
    return [land, draw((LAND,), but=land)], [border]


def _render(
    generator: np.random.Generator, names: list[str], below: list[Field], size: tuple[int, int]
) -> np.ndarray:
    height, width = size
    image = GROUNDS[names[0]].texture(generator, height, width)
    for name, distance in zip(names[1:], below, strict=True):
        texture = GROUNDS[name].texture(generator, height, width)
        image = mix(image, texture, np.clip(0.5 + distance, 0, 1))
        # a soft shade along the border makes the nearer ground stand out
        image = image * (1 - 0.22 * np.exp(-np.abs(distance) / 2.5))[..., None]
    return image.astype(np.float32)


def _wave(generator: np.random.Generator, x: Field, amplitude: float, octaves: int = 3) -> Field:
    """Draw a smooth random curve over x whose values are within about +-amplitude."""
    total = np.zeros_like(x)
    for octave in range(octaves):
        frequency = generator.uniform(0.6, 1.4) * 2**octave / x.shape[1]
        phase = generator.uniform(0, 2 * np.pi)
        total += np.sin(2 * np.pi * frequency * x + phase) / 1.7**octave
    return amplitude * total / 1.5


def _pick(
    generator: np.random.Generator, unseen_weight: float, places: tuple[str, ...], but: str = ""
) -> str:
    fitting = [n for n, g in GROUNDS.items() if n != but and not set(places).isdisjoint(g.places)]
    return pick(generator, GROUNDS, fitting, unseen_weight)
