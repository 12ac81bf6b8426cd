"""Place and draw things: coat, light, shadow, and the exact pixels that each thing covers."""

from dataclasses import dataclass

import cv2
import numpy as np

from frozenseg.small_world.chance import pick
from frozenseg.small_world.coats import COLOURS, PATTERNS, paint_coat, vary
from frozenseg.small_world.noise import Field, mix, pixel_grid
from frozenseg.small_world.nouns import COAT, NOUNS, TRIM
from frozenseg.small_world.plane import Plane, union

PLAIN_SHARE = 0.4  # of all things; the patterns other than "plain" share the rest equally
CLOSEST = 0.72  # least distance of two things, in sums of their radii; below 1 they may overlap
REACH = 1.7  # from the centre to the end of the shadow, in radii; no shape extends beyond 1.25


@dataclass
class Thing:
    """A noun with a colour and a pattern at a place in the image.

    name: the first name of the noun.
    colour: the name of its colour.
    pattern: the name of its pattern.
    rgb: the shade of its colour.
    centre: (y, x) in pixels.
    radius: the size of its unit disc in pixels.
    turn: its rotation in radians.
    mirrored: whether left and right are swapped.
    stretch: how its two axes differ in scale.
    period: the period of its pattern in pixels.
    area: the number of pixels that it would cover if no other thing hid it; set once it is drawn.
    """

    name: str
    colour: str
    pattern: str
    rgb: np.ndarray
    centre: tuple[float, float]
    radius: float
    turn: float
    mirrored: bool
    stretch: float
    period: float
    area: int = 0


def place_things(
    generator: np.random.Generator,
    size: tuple[int, int],
    horizon: float,
    *,
    counts: tuple[int, int],
    radii: tuple[float, float],
    unseen_weight: float,
) -> list[Thing]:
    """Place things on an image; some overlap, few are hidden. Farther ones (higher up) come first.

    size: (height, width) of the image. horizon: y in pixels; all things reach down to it.
    counts, radii, unseen_weight: as in `SceneOptions`.
    """
    height, width = size
    things: list[Thing] = []
    count = int(generator.integers(counts[0], counts[1] + 1))
    for _ in range(8 * count):  # the number of tries; a crowded scene may get fewer things
        if len(things) == count:
            break
        radius = min(height, width) * generator.uniform(*radii)
        top = max(0.75 * radius, horizon - 0.4 * radius)
        y = generator.uniform(top, max(top + 1, height - 0.8 * radius))
        x = generator.uniform(0.7 * radius, width - 0.7 * radius)
        if all(
            np.hypot(y - other.centre[0], x - other.centre[1]) > CLOSEST * (radius + other.radius)
            for other in things
        ):
            things.append(_random_thing(generator, (y, x), radius, unseen_weight))
    return sorted(things, key=lambda thing: thing.centre[0] + 0.5 * thing.radius)


def _random_thing(
    generator: np.random.Generator, centre: tuple[float, float], radius: float, unseen_weight: float
) -> Thing:
    name = pick(generator, NOUNS, list(NOUNS), unseen_weight)
    colour = str(generator.choice(list(COLOURS)))
    return Thing(
        name=name,
        colour=colour,
        pattern=_random_pattern(generator),
        rgb=vary(colour, generator),
        centre=centre,
        radius=radius,
        turn=float(np.deg2rad(generator.uniform(-1, 1) * NOUNS[name].tilt)),
        mirrored=bool(generator.random() < 0.5),
        stretch=float(generator.uniform(0.92, 1.08)),
        period=radius * generator.uniform(0.32, 0.46),
    )


def _random_pattern(generator: np.random.Generator) -> str:
    if generator.random() < PLAIN_SHARE:
        return "plain"
    return str(generator.choice([pattern for pattern in PATTERNS if pattern != "plain"]))


def draw_thing(
    image: np.ndarray, owner: np.ndarray, thing: Thing, number: int, light: float
) -> None:
    """Draw a thing on top of the image, in place; set its pixels in `owner` to `number`.

    Its area is stored in `thing.area`. image: (H, W, 3) float32 in 0-1. owner: (H, W) int32.
    light: the direction in radians from which light falls.
    """
    window, y, x = _window(thing, *owner.shape)
    u, v = _own_frame(thing, x, y)
    radius = np.float32(thing.radius)
    parts = NOUNS[thing.name].parts(Plane(u / radius, v / radius))
    whole = union(*(part.field for part in parts)) * radius
    covered = whole <= 0
    thing.area = int(covered.sum())
    owner[window][covered] = number
    coverage = _coverage(whole)
    coat = paint_coat(thing.rgb, thing.pattern, u, v, thing.period)
    paints = {COAT: coat, TRIM: thing.rgb * np.float32(0.6)}
    surface = coat
    for part in parts:
        colour = paints[part.paint] if isinstance(part.paint, str) else part.paint
        surface = mix(surface, colour, _coverage(part.field * radius))
    surface = surface * _relief(whole, light)[..., None]
    ground = image[window] * (1 - _shadow(coverage, thing.radius, light))[..., None]
    image[window] = mix(ground, surface, coverage)


def _window(thing: Thing, height: int, width: int) -> tuple[tuple[slice, slice], Field, Field]:
    """Return the part of the image that a thing and its shadow reach, and y, x of its pixels."""
    reach = REACH * thing.radius + 4
    rows, columns = (
        slice(max(0, int(middle - reach)), min(side, int(middle + reach) + 1))
        for middle, side in zip(thing.centre, (height, width), strict=True)
    )
    y, x = pixel_grid(rows.stop - rows.start, columns.stop - columns.start)
    return (rows, columns), y + np.float32(rows.start), x + np.float32(columns.start)


def _own_frame(thing: Thing, x: Field, y: Field) -> tuple[Field, Field]:
    """Return the distances in pixels from the thing's centre along its own axes."""
    right, down = x - np.float32(thing.centre[1]), y - np.float32(thing.centre[0])
    cosine, sine = np.float32(np.cos(thing.turn)), np.float32(np.sin(thing.turn))
    u, v = right * cosine + down * sine, down * cosine - right * sine
    return (-u if thing.mirrored else u) / np.float32(thing.stretch), v * np.float32(thing.stretch)


def _coverage(distance: Field) -> Field:
    """Return the share of a pixel that lies inside, from the signed distance of its centre."""
    return np.clip(0.5 - distance, 0, 1)


def _relief(distance: Field, light: float) -> Field:
    """Return the brightness of a rounded edge with a dark rim; it is 1 in the flat interior."""
    width = 5.0  # pixels over which the edge bends away
    rise = np.clip(-distance / width, 0, 1)
    height = cv2.GaussianBlur(width * np.sqrt(1 - (1 - rise) ** 2), (0, 0), 1.0)
    slope_y, slope_x = np.gradient(height)
    lit = -(slope_x * np.cos(light) - slope_y * np.sin(light))
    rim = np.exp(-np.maximum(-distance, 0) / 0.9)
    return (1 + 0.22 * np.clip(lit, -1.2, 1.2)) * (1 - 0.35 * rim)


def _shadow(coverage: Field, radius: float, light: float) -> Field:
    """Return the share of light that the thing takes from what lies behind it."""
    away = 0.14 * radius
    move = np.array([[1, 0, -away * np.cos(light)], [0, 1, away * np.sin(light)]], np.float32)
    shifted = cv2.warpAffine(coverage, move, coverage.shape[::-1])
    return np.float32(0.45) * cv2.GaussianBlur(shifted, (0, 0), 0.09 * radius + 0.8)
