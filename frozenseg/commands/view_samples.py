"""Write augmented training samples as one picture, so that a person can check the augmentation."""

import argparse
from itertools import islice

import numpy as np
from PIL import Image

from frozenseg.commands.output_argument import output_picture
from frozenseg.data.benchmarks import BENCHMARKS, FILES_FORM, find_benchmark, load_records
from frozenseg.data.dataset import Sample, SegmentationDataset
from frozenseg.data.loader import TrainingSampler
from frozenseg.data.records import Categories
from frozenseg.data.transforms import LargeScaleJitter
from frozenseg.drawing.visualize import draw_segments
from frozenseg.errors import UserError
from frozenseg.files import atomic_path
from frozenseg.structures import Segment

TILE_HEIGHT = 400  # pixels of one sample on the sheet
GAP = 8


def main(argv: list[str]) -> int | None:
    """Draw training samples and write them as one picture."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    records, categories = load_records(arguments.dataset)
    dataset = SegmentationDataset(
        records=records,
        categories=categories,
        transform=LargeScaleJitter(
            size=arguments.size, min_scale=arguments.min_scale, max_scale=arguments.max_scale
        ),
        targets=find_benchmark(arguments.dataset).targets,
        seed=arguments.seed,
    )
    order = TrainingSampler(len(dataset), seed=arguments.seed)
    tiles = [sample_picture(dataset[draw], categories) for draw in islice(order, arguments.count)]
    sheet = image_grid(tiles, columns=2)
    with atomic_path(arguments.output) as temporary:
        sheet.save(temporary)
    print(f"{arguments.output}: {len(tiles)} samples of {arguments.dataset}")
    return None


def sample_picture(sample: Sample, categories: Categories) -> Image.Image:
    """A training sample beside the same with its masks and class names."""
    assert sample.targets is not None, "training samples have targets"
    image = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
    masks, class_ids = sample.targets.masks.numpy(), sample.targets.class_ids.tolist()
    numbers = np.arange(1, len(masks) + 1, dtype=np.int32)
    # instances may overlap: the later one is drawn on top
    ids = (masks * numbers[:, None, None]).max(axis=0, initial=0).astype(np.int32)
    segments = [
        _segment(number, mask, class_id, categories)
        for number, mask, class_id in zip(numbers.tolist(), masks, class_ids, strict=True)
        if (ids == number).any()
    ]
    overlay = draw_segments(image, ids, segments)
    side = overlay.height  # crops are square; the overlay was scaled to a size good to read
    picture = Image.new("RGB", (side + GAP + overlay.width, side), "white")
    picture.paste(Image.fromarray(image).resize((side, side)), (0, 0))
    picture.paste(overlay, (side + GAP, 0))
    return picture


def image_grid(pictures: list[Image.Image], columns: int) -> Image.Image:
    """The pictures in rows of `columns`, each `TILE_HEIGHT` high."""
    tiles = [
        picture.resize((max(1, round(picture.width * TILE_HEIGHT / picture.height)), TILE_HEIGHT))
        for picture in pictures
    ]
    width = max(tile.width for tile in tiles) + GAP
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (width * columns, (TILE_HEIGHT + GAP) * rows), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * width, index // columns * (TILE_HEIGHT + GAP)))
    return sheet


def _segment(number: int, mask: np.ndarray, class_id: int, categories: Categories) -> Segment:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Segment(
        id=number,
        class_id=class_id,
        name=categories.names[class_id],
        is_thing=categories.is_thing[class_id],
        score=1.0,
        area=int(mask.sum()),
        box=(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1),
    )


def _check(arguments: argparse.Namespace) -> None:
    if arguments.count < 1 or arguments.size < 1:
        raise UserError("--count and --size must be at least 1")
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed}: must not be negative")
    if not 0 < arguments.min_scale <= arguments.max_scale:
        raise UserError(
            f"--min-scale {arguments.min_scale} --max-scale {arguments.max_scale}: "
            "0 < min-scale <= max-scale was expected"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg view_samples", description=__doc__)
    parser.add_argument(
        "--dataset", required=True, help=f"{', '.join(BENCHMARKS)}, or files: {FILES_FORM}"
    )
    parser.add_argument(
        "--output", required=True, type=output_picture, help="the picture to write (.png)"
    )
    parser.add_argument("--count", type=int, default=8, help="samples (default: %(default)s)")
    parser.add_argument("--size", type=int, default=1024, help="crop (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default: %(default)s)")
    parser.add_argument("--min-scale", type=float, default=0.1, help="default: %(default)s")
    parser.add_argument("--max-scale", type=float, default=2.0, help="default: %(default)s")
    return parser
