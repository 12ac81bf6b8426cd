"""Mosaic-4, a protocol of this project: does a model know which name belongs where?

Fusioner's paper mentions a test with mosaics of FSS-1000 samples, but not their layout, their
number or the metric. Here a mosaic has 2 x 2 tiles of equal size, samples of four different test
classes. All four names are queried, a pixel gets the most probable of them if its probability is
above one half, and the score is the mean IoU over classes.

Sources:

- `fss1000`: its 240 test classes; tiles of 224 pixels; 1,000 mosaics.
- `small_world`: square crops of its validation scenes, each around one thing; tiles of 96 pixels;
  200 mosaics, each with things of four different unseen nouns. A pixel of any of the four classes
  is labelled in whichever tile it lies; all other pixels are background.
- `small_world_seen`: the same with seen nouns.

Given the same samples, mosaic number n of a source depends only on the seed (SEED, n). The samples
are written beside the mosaics (`tiles.json`), so that mosaics of other samples or class ids are not
kept.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from frozenseg.data.annotations import load_image, load_panoptic, load_semantic
from frozenseg.data.benchmarks import find_benchmark, read_benchmark
from frozenseg.data.prepare import fss1000
from frozenseg.data.prepare.options import PreparationOptions, write_picture, write_source
from frozenseg.data.records import Record
from frozenseg.data.transforms import resize_image, resize_labels, seeded_generator
from frozenseg.errors import UserError
from frozenseg.files import atomic_path, json_text
from frozenseg.text.vocabulary import Vocabulary

FOLDER = "mosaic4"
SEED = 4
CROP = 1.5  # side of a crop, as a multiple of the longer side of its thing
SMALLEST = 24  # pixels; things whose longer side is shorter are not cropped out


@dataclass(frozen=True)
class Tile:
    """A square piece of a sample.

    box: (top, left, side) in pixels; None: the whole sample, stretched to a square.
    """

    record: Record
    class_id: int
    box: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Source:
    """Where the tiles of a set of mosaics come from.

    tiles: returns the tiles of each class.
    side: the side of a tile in pixels.
    count: the usual number of mosaics.
    background: the value in the label maps of pixels of none of the four classes.
    suffix: the suffix of the label maps.
    """

    tiles: Callable[[Path], dict[int, list[Tile]]]
    side: int
    count: int
    background: int
    suffix: str


def prepare(root: Path, name: str, options: PreparationOptions) -> None:
    """Draw the mosaics of a source and write their images and label maps."""
    source, folder = SOURCES[name], root / FOLDER / name
    by_class = source.tiles(root)
    if len(by_class) < 4:
        raise UserError(f"{name}: has samples of {len(by_class)} classes, a mosaic needs four")
    _write_tiles(folder, by_class, source, options)
    count = options.count or source.count
    targets = [folder / "annotations" / f"{n:06d}{source.suffix}" for n in range(count)]
    jobs = [
        (target, draw(by_class, number))
        for number, target in enumerate(targets)
        if options.must_write(target) or options.must_write(_image_path(target))
    ]
    options.map(functools.partial(_write, name), jobs, f"{FOLDER} {name}")
    for path in (*folder.glob("images/*.jpg"), *folder.glob(f"annotations/*{source.suffix}")):
        if path.stem.isdigit() and int(path.stem) >= count:  # from an earlier run with more mosaics
            path.unlink()


def _write_tiles(
    folder: Path, by_class: dict[int, list[Tile]], source: Source, options: PreparationOptions
) -> None:
    """Write the samples of each class; refuse mosaics that were drawn from others."""
    path = folder / "tiles.json"
    rows = {c: [[tile.record.image_id, tile.box] for tile in by_class[c]] for c in sorted(by_class)}
    refusal = (
        f"{path}: the mosaics were drawn from other samples or class ids than there are now; "
        f"run frozenseg prepare_dataset {FOLDER} --split {folder.name} --again"
    )
    made = list(folder.glob(f"annotations/[!.]*{source.suffix}"))
    write_source(path, json_text(rows) + "\n", made, options, refusal)


def _image_path(target: Path) -> Path:
    return target.parents[1] / "images" / f"{target.stem}.jpg"


def _write(name: str, job: tuple[Path, list[Tile]]) -> None:
    """Write one mosaic; the label map is last, so that its presence means a complete mosaic."""
    target, tiles = job
    image, labels = mosaic(tiles, SOURCES[name])
    with atomic_path(_image_path(target)) as temporary:
        Image.fromarray(image).save(temporary, quality=95, subsampling=0)
    write_picture(target, labels)


def draw(by_class: dict[int, list[Tile]], number: int) -> list[Tile]:
    """Draw four tiles of four different classes, in the order upper row, lower row."""
    chance = seeded_generator(SEED, number)
    chosen = chance.choice(sorted(by_class), size=4, replace=False)
    return [by_class[c][int(chance.integers(len(by_class[c])))] for c in chosen.tolist()]


def mosaic(tiles: Sequence[Tile], source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Join four tiles to a picture (2S, 2S, 3) uint8 and its class ids (2S, 2S)."""
    queried = [tile.class_id for tile in tiles]
    parts = [_cut(tile, source) for tile in tiles]
    image = _arranged([image for image, _ in parts])
    labels = _arranged([labels for _, labels in parts])
    dtype = np.uint8 if source.suffix == ".png" else np.uint16
    return image, np.where(np.isin(labels, queried), labels, source.background).astype(dtype)


def _arranged(parts: list[np.ndarray]) -> np.ndarray:
    rows = [np.concatenate(parts[start : start + 2], axis=1) for start in (0, 2)]
    return np.concatenate(rows, axis=0)


def _cut(tile: Tile, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Cut out a tile (S, S, 3) and its class ids (S, S)."""
    image, labels = load_image(tile.record), load_semantic(tile.record)
    if tile.box is not None:
        top, left, side = tile.box
        image = image[top : top + side, left : left + side]
        labels = labels[top : top + side, left : left + side]
    size = source.side, source.side
    return resize_image(image, size), resize_labels(labels, size)


def _fss_tiles(root: Path) -> dict[int, list[Tile]]:
    """Make a tile of each sample of the test classes of FSS-1000."""
    records, categories = read_benchmark(find_benchmark("fss1000_test"), root)
    tiles: dict[int, list[Tile]] = {}
    for record in records:
        # The prepared list, not the published one, says what the ids of the label maps mean.
        name = str(record.image_id).rsplit("_", 1)[0].replace("_", " ")
        if name not in categories.names:
            raise UserError(
                f"{record.semantic_path}: is of no class in the prepared list; "
                "run frozenseg prepare_dataset fss1000 --again"
            )
        class_id = categories.names.index(name)
        tiles.setdefault(class_id, []).append(Tile(record, class_id))
    return tiles


def _small_world_tiles(seen: bool, root: Path) -> dict[int, list[Tile]]:
    """Make a tile around each thing of a seen or unseen noun in the validation scenes."""
    row = find_benchmark("small_world_val")
    records, categories = read_benchmark(row, root)
    vocabulary = Vocabulary.packaged("small_world")
    flags = vocabulary.seen(Vocabulary.packaged("small_world_seen"))
    tiles: dict[int, list[Tile]] = {}
    for record in records:
        ids, segments = load_panoptic(record)
        for number, class_id in zip(segments.ids, segments.class_ids.tolist(), strict=True):
            shown = categories.is_thing[class_id] and flags[class_id] == seen
            box = crop_box(ids == number) if shown else None
            if box is not None:
                tiles.setdefault(class_id, []).append(Tile(record, class_id, box))
    return tiles


def crop_box(mask: np.ndarray) -> tuple[int, int, int] | None:
    """Return the square (top, left, side) around a thing in a scene; None if the thing is too
    small."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    if extent < SMALLEST:
        return None
    side = min(round(CROP * int(extent)), *mask.shape)
    corner = [
        min(max(0, (int(line[0]) + int(line[-1]) + 1 - side) // 2), length - side)
        for line, length in ((rows, mask.shape[0]), (columns, mask.shape[1]))
    ]
    return corner[0], corner[1], side


SOURCES = {
    "fss1000": Source(_fss_tiles, 224, 1000, fss1000.BACKGROUND, ".tif"),
    "small_world": Source(functools.partial(_small_world_tiles, False), 96, 200, 254, ".png"),
    "small_world_seen": Source(functools.partial(_small_world_tiles, True), 96, 200, 254, ".png"),
}
