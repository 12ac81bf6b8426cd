"""Make a scene, an image with its ground truth, that depends only on seed, stream and index."""

from dataclasses import dataclass

import cv2
import numpy as np

from frozenseg.small_world.layout import Layout, make_layout
from frozenseg.small_world.noise import pixel_grid
from frozenseg.small_world.things import Thing, draw_thing, place_things

# No two of these streams share a scene.
STREAMS = ("train", "val", "demo", "clip", "sam", "clip_test", "sam_test", "video")
MIN_VISIBLE_SHARE = 0.4  # a thing with a smaller visible share can no longer be named
MIN_VISIBLE_AREA = 60  # pixels
NARROWEST_RANGE = 48  # least width of the range of sides, in pixels, because no scene is square


@dataclass(frozen=True)
class SceneOptions:
    """The options of a scene.

    sides: the range of height and width in pixels. counts: the fewest and the most things; a
    crowded scene may get fewer. radii: the range of a thing's radius as a share of the shorter
    side. unseen_weight: how often an unseen noun or ground is drawn, relative to a seen one.
    """

    sides: tuple[int, int] = (128, 256)
    counts: tuple[int, int] = (2, 6)
    radii: tuple[float, float] = (0.13, 0.29)
    unseen_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.sides[1] - self.sides[0] < NARROWEST_RANGE:
            raise ValueError(f"sides {self.sides}: must be at least {NARROWEST_RANGE} pixels apart")


@dataclass(frozen=True)
class Region:
    """A region of a scene: what the pixels with its id show.

    name: the first name of its noun or ground. colour, pattern: "" for a ground.
    """

    id: int
    name: str
    is_thing: bool
    colour: str = ""
    pattern: str = ""


@dataclass
class Scene:
    """A scene and its ground truth.

    image: (H, W, 3) uint8 RGB. ids: (H, W) int32, the id of the region whose topmost surface covers
    the centre of the pixel; every pixel has one. regions: the regions with ids 1, 2, ..., grounds
    first.
    """

    image: np.ndarray
    ids: np.ndarray
    regions: list[Region]

    @property
    def things(self) -> list[Region]:
        """The regions of things."""
        return [region for region in self.regions if region.is_thing]

    @property
    def grounds(self) -> list[Region]:
        """The regions of grounds."""
        return [region for region in self.regions if not region.is_thing]

    def masks(self) -> np.ndarray:
        """Return the masks (N, H, W) bool of the N regions."""
        return self.ids == np.arange(1, len(self.regions) + 1, dtype=np.int32)[:, None, None]


def make_scene(seed: int, stream: str, index: int, options: SceneOptions | None = None) -> Scene:
    """Make the scene of a seed, a stream of `STREAMS` and an index; it is always the same."""
    options = options or SceneOptions()
    generator = np.random.default_rng([seed, STREAMS.index(stream), index])
    height, width = _size(generator, options.sides)
    layout = make_layout(generator, height, width, unseen_weight=options.unseen_weight)
    things = place_things(
        generator,
        (height, width),
        layout.horizon,
        counts=options.counts,
        radii=options.radii,
        unseen_weight=options.unseen_weight,
    )
    light = generator.uniform(0.15, 0.85) * np.pi  # where the light comes from, always above
    image, owner = _draw(layout, things, light)
    kept = _visible(owner, things)
    if len(kept) < len(things):  # draw again without the things that are hardly visible
        image, owner = _draw(layout, kept, light)
    ids, regions = _number(layout, kept, owner)
    return Scene(develop(generator, image, light), ids, regions)


def _size(generator: np.random.Generator, sides: tuple[int, int]) -> tuple[int, int]:
    height, width = (int(side) for side in generator.integers(sides[0], sides[1] + 1, 2))
    if abs(height - width) < 16:  # too square: make it wide, or high if there is no room
        width = height + 24 if height + 24 <= sides[1] else height - 24
    return height, width


def _draw(layout: Layout, things: list[Thing], light: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw the things on the grounds.

    Returns the image (H, W, 3) float32 in 0-1, and (H, W) int32: n + 1 on thing n, 0 elsewhere.
    """
    image = layout.image.copy()
    owner = np.zeros(image.shape[:2], np.int32)
    for number, thing in enumerate(things, 1):
        draw_thing(image, owner, thing, number, light)
    return image, owner


def _visible(owner: np.ndarray, things: list[Thing]) -> list[Thing]:
    areas = np.bincount(owner.ravel(), minlength=len(things) + 1)[1:]
    least = [max(MIN_VISIBLE_AREA, MIN_VISIBLE_SHARE * thing.area) for thing in things]
    return [thing for thing, visible in zip(things, areas >= least, strict=True) if visible]


def _number(
    layout: Layout, things: list[Thing], owner: np.ndarray
) -> tuple[np.ndarray, list[Region]]:
    """Return ids (H, W) and regions, numbered from 1: the visible grounds, then the things."""
    bare = np.unique(layout.index[owner == 0]).tolist()
    regions = [Region(n, layout.grounds[i], False) for n, i in enumerate(bare, 1)]
    ground_ids = np.zeros(len(layout.grounds), np.int32)
    ground_ids[bare] = np.arange(1, len(bare) + 1)
    first = len(regions)
    for number, thing in enumerate(things, 1):
        regions.append(Region(first + number, thing.name, True, thing.colour, thing.pattern))
    ids = np.where(owner > 0, owner + first, ground_ids[layout.index])
    return ids.astype(np.int32), regions


def develop(generator: np.random.Generator, image: np.ndarray, light: float) -> np.ndarray:
    """Apply light over the entire scene, a tint, noise and sometimes blur: (H, W, 3) uint8."""
    height, width = image.shape[:2]
    y, x = pixel_grid(height, width)
    cosine, sine = np.float32(np.cos(light)), np.float32(np.sin(light))
    toward = (x / width - 0.5) * cosine - (y / height - 0.5) * sine
    fall = 1.02 + np.float32(generator.uniform(0.05, 0.35)) * toward
    tint = generator.uniform(0.9, 1.06) * generator.uniform(0.96, 1.04, 3)
    exposed = image * fall[..., None] * tint.astype(np.float32)
    sigma = np.float32(generator.uniform(0.002, 0.02))
    noisy = exposed + sigma * generator.standard_normal(image.shape, dtype=np.float32)
    if generator.random() < 0.2:
        noisy = cv2.GaussianBlur(noisy, (0, 0), generator.uniform(0.4, 0.7))
    return np.clip(noisy * 255 + 0.5, 0, 255).astype(np.uint8)
