"""Draw training samples in one picture, augmented by the configuration as the model sees them."""

import argparse
from itertools import islice

import numpy as np
from PIL import Image

from frozenseg.build.training_data import training_dataset
from frozenseg.commands.output_argument import output_picture, refuse_input
from frozenseg.config import load_config
from frozenseg.data.benchmarks import OWN_FORMS
from frozenseg.data.dataset import Sample
from frozenseg.data.loader import TrainingSampler
from frozenseg.drawing.visualize import draw_segments
from frozenseg.errors import UserError
from frozenseg.files import atomic_path
from frozenseg.structures import UNNAMED, Segment
from frozenseg.text.vocabulary import Vocabulary

TILE_HEIGHT = 400  # height of one sample in the picture, in pixels
GAP = 8


def main(argv: list[str]) -> int | None:
    """Draw training samples and write them as one picture."""
    arguments = _parser().parse_intermixed_args(argv)
    if arguments.count < 1:
        raise UserError(f"--count {arguments.count}: must be at least 1")
    options = list(arguments.options)
    if arguments.dataset:
        options += ["DATASETS.TRAIN", repr((arguments.dataset,))]
    cfg = load_config(arguments.config_file, options, freeze=False)
    cfg.SEED = max(cfg.SEED, 0)  # -1 would draw a new seed each time
    dataset, vocabulary = training_dataset(cfg)
    inputs = (path for record in dataset.records for path in record.pictures)
    refuse_input(arguments.output, inputs)
    order = TrainingSampler(len(dataset), seed=cfg.SEED)
    tiles = [sample_picture(dataset[draw], vocabulary) for draw in islice(order, arguments.count)]
    sheet = image_grid(tiles, columns=2)
    with atomic_path(arguments.output) as temporary:
        sheet.save(temporary)
    print(f"{arguments.output}: {len(tiles)} samples of {', '.join(cfg.DATASETS.TRAIN)}")
    return None


def sample_picture(sample: Sample, vocabulary: Vocabulary) -> Image.Image:
    """Return a picture of a training sample, without and with its masks and class names."""
    assert sample.targets is not None, "training samples have targets"
    image = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
    masks, class_ids = sample.targets.masks.numpy(), sample.targets.class_ids.tolist()
    numbers = np.arange(1, len(masks) + 1, dtype=np.int32)
    # Instances may overlap; later ones are drawn on top.
    ids = (masks * numbers[:, None, None]).max(axis=0, initial=0).astype(np.int32)
    segments = [
        _segment(number, mask, class_id, vocabulary)
        for number, mask, class_id in zip(numbers.tolist(), masks, class_ids, strict=True)
        if (ids == number).any()
    ]
    overlay = draw_segments(image, ids, segments)
    side = overlay.height  # crops are square; the overlay may be enlarged so that it is readable
    picture = Image.new("RGB", (side + GAP + overlay.width, side), "white")
    picture.paste(Image.fromarray(image).resize((side, side)), (0, 0))
    picture.paste(overlay, (side + GAP, 0))
    return picture


def image_grid(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Return the pictures in rows of `columns`, each `TILE_HEIGHT` high."""
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


def _segment(number: int, mask: np.ndarray, class_id: int, vocabulary: Vocabulary) -> Segment:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Segment(
        id=number,
        class_id=class_id,
        name="unnamed" if class_id == UNNAMED else vocabulary.labels[class_id],
        is_thing=class_id == UNNAMED or vocabulary.is_thing[class_id],
        score=1.0,
        area=int(mask.sum()),
        box=(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg view_samples", description=__doc__)
    parser.add_argument(
        "--config-file", help="the recipe of the run (default: the published recipe)"
    )
    parser.add_argument(
        "--dataset",
        help="data set to use instead of DATASETS.TRAIN: a name, or for your own data "
        + ", ".join(OWN_FORMS),
    )
    parser.add_argument(
        "--output", required=True, type=output_picture, help="the picture to write (.png)"
    )
    parser.add_argument(
        "--count", type=int, default=8, help="number of samples (default: %(default)s)"
    )
    parser.add_argument(
        "options", nargs="*", metavar="KEY VALUE", help="settings that override the recipe"
    )
    return parser
