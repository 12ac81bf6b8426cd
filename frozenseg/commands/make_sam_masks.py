"""Write SAM's mask proposals for a data set or folder to disk, for TEST.SAM_MASKS.FOLDER.

Proposals for a training set are used by MODEL.MASK_FORMER.UNNAMED_TARGETS.

If a run was stopped, the same command continues it. Several runs may work at once, each with its
own --part; with --engine ray, a Ray cluster processes the parts. The settings are those of the
configuration (TEST.SAM_MASKS, TEST.PKL_SAM_MODEL_NAME, INPUT.*_SIZE_TEST).
"""

import argparse
import logging
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from tqdm import tqdm

from frozenseg.build.device import build_device
from frozenseg.build.prediction import build_online_proposals, proposal_identity
from frozenseg.build.transforms import eval_transform
from frozenseg.commands.engine_arguments import add_engine, ray_of
from frozenseg.commands.output_argument import output_picture, refuse_input
from frozenseg.commands.part_argument import part_of
from frozenseg.commands.view_samples import image_grid
from frozenseg.config import load_config
from frozenseg.data.annotations import load_image
from frozenseg.data.benchmarks import find_benchmark, load_records
from frozenseg.data.image_files import is_video, list_images
from frozenseg.data.images import read_image
from frozenseg.data.prediction_lines import WHOLE, Part
from frozenseg.data.records import Record
from frozenseg.data.transforms import ShortestEdgeResize, resize_to_tensor
from frozenseg.drawing.visualize import draw_segments
from frozenseg.errors import UserError, one_line
from frozenseg.files import atomic_path, check_writable, user_path
from frozenseg.inference.proposal_files import ABOUT, ProposalFolder
from frozenseg.inference.proposal_sources import OnlineProposals
from frozenseg.inference.proposals import Proposals
from frozenseg.structures import ImageBatch, Segment

logger = logging.getLogger(__name__)

MOST_ON_SHEET = 24
SHEET_COLUMNS = 4


@dataclass(frozen=True)
class Entry:
    """One image.

    id: the key by which an evaluation finds the masks of the image.
    record: the record of the image in its data set, or None.
    """

    id: int | str
    path: Path
    record: Record | None = None

    @property
    def pictures(self) -> list[Path]:
        """The file of the image and, in a data set, the files of its annotation."""
        return [self.path] if self.record is None else self.record.pictures

    def image(self) -> np.ndarray:
        """Read the image, in the orientation that evaluation and training use."""
        return read_image(self.path) if self.record is None else load_image(self.record)


def main(argv: list[str]) -> int | None:
    """Make the proposals for the images that have none yet."""
    arguments = _parser().parse_intermixed_args(argv)
    ray = ray_of(arguments)
    if ray is None:
        return make_part(arguments, arguments.part)
    from frozenseg.batch.on_ray import run_parts

    if arguments.part != WHOLE or arguments.sheet is not None:
        raise UserError("--engine ray makes all parts and no sheet; leave out --part and --sheet")
    arguments.output = arguments.output.absolute()
    return max(status or 0 for status in run_parts(partial(make_part, arguments), **ray))


def make_part(arguments: argparse.Namespace, part: Part) -> int | None:
    """Make the proposals for a part of the images, and return the exit status."""
    cfg = load_config(arguments.config_file, arguments.options + arguments.opts)
    entries, resize = _entries(arguments, cfg)
    refuse_input(arguments.sheet, (path for entry in entries for path in entry.pictures))
    check_writable(arguments.output / ABOUT)
    source = build_online_proposals(cfg, None, build_device(cfg))
    folder = ProposalFolder(arguments.output, proposal_identity(cfg, source), create=True)
    failures, replaced, made, earlier = [], [], 0, 0
    start = time.monotonic()
    pictures: list[Image.Image] = []
    for entry in tqdm(entries[part.number - 1 :: part.total], unit=" images", disable=None):
        try:
            array = entry.image()
        except UserError as error:
            failures.append(str(error))
            continue
        image = resize_to_tensor(array, resize.short, resize.long)
        if folder.has(entry.id, image):
            earlier += 1
        else:
            if folder.has_another(entry.id, image):
                replaced.append(str(entry.id))
            folder.save(entry.id, image, make(source, image))
            made += 1
        if arguments.sheet is not None and len(pictures) < MOST_ON_SHEET:
            pictures.append(picture(array, folder.load(entry.id, image)))
    seconds = time.monotonic() - start
    line = f"{arguments.output}: {made} images in {seconds:.1f} s; {earlier} were done before"
    print(one_line(line))
    if replaced:
        logger.warning(
            "%s: %d masks of other images of the same names, or of another INPUT.*_SIZE_TEST, were "
            "replaced (%s); give each set of images an --output of its own",
            *(arguments.output, len(replaced), ", ".join(replaced[:3])),
        )
    for failure in failures:
        print(one_line(f"not done: {failure}"), file=sys.stderr)
    if pictures:
        with atomic_path(arguments.sheet) as temporary:
            image_grid(pictures, columns=SHEET_COLUMNS).save(temporary)
    elif arguments.sheet is not None:
        line = f"{arguments.sheet}: not written; none of the images here could be read"
        print(one_line(line), file=sys.stderr)
    return 1 if failures else None


def make(source: OnlineProposals, image: torch.Tensor) -> Proposals:
    """Return SAM's proposals for one image (3, h, w)."""
    images = ImageBatch.collate([image], divisor=1).to(source.sam.model.device)
    return source(images, [None])[0][0]


def picture(image: np.ndarray, proposals: Proposals) -> Image.Image:
    """Draw the proposals over the image, numbered from large to small; small ones are on top."""
    height, width = image.shape[:2]
    ids = np.zeros((height, width), np.int32)
    for number, mask in enumerate(proposals.masks((height, width)).numpy(), 1):
        ids[mask] = number
    kept = [number for number in np.unique(ids).tolist() if number]
    segments = [
        Segment(number, number, str(number), True, 1.0, int((ids == number).sum()), (0, 0, 0, 0))
        for number in kept
    ]
    return draw_segments(image, ids, segments, legend=False)


def _entries(arguments: argparse.Namespace, cfg: CfgNode) -> tuple[list[Entry], ShortestEdgeResize]:
    if (arguments.dataset is None) == (not arguments.input):
        raise UserError("give either --dataset NAME or --input FILES")
    if arguments.dataset is not None:
        records, _ = load_records(arguments.dataset)
        entries = [Entry(r.image_id, Path(r.image_path), r) for r in records]
        return entries, eval_transform(cfg, find_benchmark(arguments.dataset))
    paths = [path for path in list_images(arguments.input) if not is_video(path)]
    entries = [Entry(path.stem, path) for path in paths]
    for name, times in Counter(entry.id for entry in entries).items():
        if times > 1:
            raise UserError(
                f"--input: {times} images are named {name}; masks are stored by name: rename them"
            )
    return entries, ShortestEdgeResize(short=cfg.INPUT.MIN_SIZE_TEST, long=cfg.INPUT.MAX_SIZE_TEST)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg make_sam_masks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--config-file",
        default="small",
        help="a YAML file, or the name of a model or recipe (default: %(default)s)",
    )
    add("--dataset", help="a data set, given by its name or its files; images keep their ids")
    add("--input", nargs="+", default=[], metavar="PATH", help="images, folders, globs")
    add("--output", type=user_path, required=True, help="folder for the proposals")
    add(
        "--part",
        type=part_of,
        default=WHOLE,
        metavar="K/N",
        help="process every N-th image, starting with the K-th",
    )
    add(
        "--sheet",
        type=output_picture,
        help=f"picture to write of the masks of the first {MOST_ON_SHEET} images (.png)",
    )
    add_engine(parser, actors="processes")
    add(
        "options",
        nargs="*",
        metavar="KEY VALUE",
        help="settings that override those of the YAML file",
    )
    add(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="KEY VALUE pairs; needed after --input, which takes all arguments that follow it",
    )
    return parser
