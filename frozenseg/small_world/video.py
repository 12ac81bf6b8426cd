"""Make a clip, frames with exact ground truth, that depends only on seed, motion and index."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from frozenseg.small_world.layout import Layout, make_layout
from frozenseg.small_world.scene import (
    MIN_VISIBLE_AREA,
    STREAMS,
    Region,
    Scene,
    develop,
)
from frozenseg.small_world.things import REACH, Thing, draw_thing, place_things

Motion = Literal["moving", "crossing", "panned"]
CLIP_FRAMES = 24
NOISE = 2.0  # standard deviation, in grey levels, of the noise that differs between frames
PANNED = 1.8  # width of a panned scene, in frame widths
Positions = np.ndarray
"""(T, N, 2) float: y, x of the centres of N things in T frames, in pixels."""


@dataclass(frozen=True)
class ClipOptions:
    """The options of a clip.

    size: (height, width) in pixels. frames: the number of frames. fps: frames per second. counts:
    the fewest and the most things. radii: the range of a thing's radius as a share of the height.
    speeds: the range of the horizontal distance that a moving thing covers from one frame to the
    next, as a share of the width.
    """

    size: tuple[int, int] = (144, 192)
    frames: int = CLIP_FRAMES
    fps: float = 8.0
    counts: tuple[int, int] = (3, 5)
    radii: tuple[float, float] = (0.14, 0.24)
    speeds: tuple[float, float] = (0.01, 0.05)


@dataclass
class Clip:
    """A clip and its ground truth.

    images: (T, H, W, 3) uint8 RGB. ids: (T, H, W) int32, the id of the region whose topmost surface
    covers the centre of the pixel. A region has the same id in all frames, but the pixels of a
    thing are 0 in frames that show fewer than `MIN_VISIBLE_AREA` of them. regions: the regions with
    ids 1, 2, ..., grounds first.
    """

    images: np.ndarray
    ids: np.ndarray
    regions: list[Region]
    fps: float


def make_clip(seed: int, motion: Motion, index: int, options: ClipOptions | None = None) -> Clip:
    """Make the clip of a seed, a motion and an index; it is always the same.

    motion: "moving": things move at constant speeds, cover each other, enter and leave; "crossing":
    two things pass each other, one behind the other; "panned": the camera pans over a scene that
    does not move.
    """
    options = options or ClipOptions()
    kinds = get_args(Motion)
    generator = np.random.default_rng([seed, STREAMS.index("video"), kinds.index(motion), index])
    height, width = options.size
    wide = round(PANNED * width) if motion == "panned" else width
    layout = make_layout(generator, height, wide)
    counts = (2, 2) if motion == "crossing" else options.counts
    more = 2 if motion == "panned" else 1  # a panned scene has more room
    things = place_things(
        generator,
        (height, wide),
        layout.horizon,
        counts=(more * counts[0], more * counts[1]),
        radii=options.radii,
        unseen_weight=1.0,
    )
    if motion == "crossing":
        things, centers = _crossing(things, options)
    elif motion == "moving":
        centers = _moving(generator, things, options)
    else:
        centers = np.broadcast_to(
            [thing.centre for thing in things], (options.frames, len(things), 2)
        )
    light = generator.uniform(0.15, 0.85) * np.pi
    look = int(generator.integers(2**32))  # the seed of tint and blur, the same in all frames
    images, owners = _render(layout, things, centers, light, look)
    images = images + NOISE * generator.standard_normal(images.shape, np.float32)
    first = len(layout.grounds) + 1
    ids = np.where(owners > 0, owners + first - 1, layout.index + 1)
    if motion == "panned":
        images, ids = _windows(images, width), _windows(ids, width)
    regions = [Region(n, name, False) for n, name in enumerate(layout.grounds, 1)]
    regions += [
        Region(first + n, thing.name, True, thing.colour, thing.pattern)
        for n, thing in enumerate(things)
    ]
    pixels = np.clip(images + 0.5, 0, 255).astype(np.uint8)
    return Clip(pixels, _without_slivers(ids, first), regions, options.fps)


def frame_scene(seed: int, index: int) -> Scene:
    """Return a frame of the clips of a seed as a scene; the clips show each motion in turn.

    Its regions are those of the entire clip, even if the frame does not show them.
    """
    number, frame = divmod(index, CLIP_FRAMES)
    kinds = get_args(Motion)
    clip = _kept_clip(seed, kinds[number % len(kinds)], number // len(kinds))
    return Scene(clip.images[frame], clip.ids[frame], clip.regions)


@lru_cache(maxsize=1)
def _kept_clip(seed: int, motion: Motion, index: int) -> Clip:
    return make_clip(seed, motion, index)


def _moving(generator: np.random.Generator, things: list[Thing], options: ClipOptions) -> Positions:
    """Move things at constant speeds; each is at its own place in the middle of the clip."""
    width = options.size[1]
    speed = width * generator.uniform(*options.speeds, len(things))
    across = speed * generator.choice([-1, 1], len(things))
    down = across * generator.uniform(-0.25, 0.25, len(things))
    steps = np.arange(options.frames) - options.frames / 2
    middle = np.array([thing.centre for thing in things]).reshape(-1, 2)
    return middle + steps[:, None, None] * np.stack([down, across], axis=1)


def _crossing(things: list[Thing], options: ClipOptions) -> tuple[list[Thing], Positions]:
    """Let two things of the same size pass each other, the first behind the second."""
    height, width = options.size
    radius = 0.2 * height
    pair = [
        replace(thing, radius=radius, period=thing.period * radius / thing.radius)
        for thing in things[:2]
    ]
    ways = np.linspace(0.15, 0.85, options.frames) * width
    rows = np.full(options.frames, 0.62 * height)
    centers = [np.stack([rows, x], axis=1) for x in (ways, ways[::-1])]
    return pair, np.stack(centers, axis=1)[:, : len(pair)]


def _render(
    layout: Layout, things: list[Thing], centers: Positions, light: float, look: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw each frame.

    Returns (T, H, W, 3) float32 in 0-255, and (T, H, W) int32: n + 1 on thing n, 0 elsewhere.
    """
    size = layout.image.shape[:2]
    images, owners = [], []
    for row in centers:
        image, owner = layout.image.copy(), np.zeros(size, np.int32)
        for number, (thing, center) in enumerate(zip(things, row, strict=True), 1):
            reach = REACH * thing.radius + 4
            if all(-reach < place < side + reach for place, side in zip(center, size, strict=True)):
                draw_thing(image, owner, replace(thing, centre=tuple(center)), number, light)
        images.append(develop(np.random.default_rng(look), image, light).astype(np.float32))
        owners.append(owner)
    return np.stack(images), np.stack(owners)


def _windows(frames: np.ndarray, width: int) -> np.ndarray:
    """Cut a window of this width out of each frame; it moves from left to right."""
    lefts = np.linspace(0, frames.shape[2] - width, len(frames)).round().astype(int)
    return np.stack(
        [frame[:, left : left + width] for frame, left in zip(frames, lefts, strict=True)]
    )


def _without_slivers(ids: np.ndarray, first: int) -> np.ndarray:
    """Set the ids of hardly visible things to 0 (void). first: the id of the first thing."""
    ids = ids.astype(np.int32)
    for frame in ids:
        areas = np.bincount(frame.ravel())
        areas[:first] = MIN_VISIBLE_AREA
        frame[areas[frame] < MIN_VISIBLE_AREA] = 0
    return ids
