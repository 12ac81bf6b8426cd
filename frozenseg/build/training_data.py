"""Build the data set and the loader of a training from a configuration."""

import logging
from collections.abc import Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from frozenseg.build.families import find_family
from frozenseg.build.setting import data_sets, setting
from frozenseg.build.transforms import eval_transform, training_transform
from frozenseg.build.vocabulary import build_training_vocabulary, one_vocabulary
from frozenseg.data.annotations import require_objects
from frozenseg.data.benchmarks import find_benchmark, load_records
from frozenseg.data.benchmarks.selection import training_pairs
from frozenseg.data.dataset import SegmentationDataset
from frozenseg.data.loader import Loader, training_loader
from frozenseg.data.records import Categories, Record
from frozenseg.data.statistics import counts_line
from frozenseg.engine.distributed import is_main, rank, world_size
from frozenseg.engine.log_file import FILE_ONLY
from frozenseg.errors import UserError
from frozenseg.inference.proposal_files import ProposalFolder
from frozenseg.inference.unnamed_regions import UnnamedRegions
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


def training_dataset(cfg: CfgNode) -> tuple[SegmentationDataset, Vocabulary]:
    """Join all sets of DATASETS.TRAIN, which must have the same classes and kind of annotation."""
    names = data_sets(cfg, "TRAIN")
    targets = find_benchmark(names[0]).targets
    records: list[Record] = []
    categories: Categories | None = None
    for name in names:
        kind = find_benchmark(name).targets
        # Semantic targets can be made from every kind of annotation.
        if kind != targets and targets != "semantic":
            raise UserError(
                f"DATASETS.TRAIN: {name} is annotated as {kind}, {names[0]} as {targets}; name "
                "sets of one kind"
            )
        of_name, classes = load_records(name)
        require_objects(of_name, kind, name)
        if categories is not None and classes != categories:
            raise UserError(f"DATASETS.TRAIN: {name} has other classes than {names[0]}")
        records, categories = records + of_name, classes
    assert categories is not None, "names is not empty"
    images = records
    if cfg.DATASETS.PAIRS:
        records = _pairs(cfg, images)
        logger.info("%d images, %d pairs of an image and a class", len(images), len(records))
    dataset = SegmentationDataset(
        records=records,
        categories=categories,
        transform=training_transform(cfg),
        targets=targets,
        keep_empty=cfg.INPUT.KEEP_EMPTY_OBJECTS,
        seed=cfg.SEED,
        fixed_views=cfg.INPUT.FIXED_VIEWS or None,
        unnamed=_unnamed_regions(cfg, records, names[0]),
    )
    vocabulary = one_vocabulary(cfg, names, categories)
    if is_main():
        summary = vocabulary.summary(build_training_vocabulary(cfg))
        log_data_set(", ".join(names), images, summary, categories.names)
    return dataset, vocabulary


def log_data_set(
    name: str, records: Sequence[Record], summary: str, classes: Sequence[str]
) -> None:
    """Log the number of images and the classes of a data set, and, only to the file, the counts."""
    logger.info("%s: %d images; %s", name, len(records), summary)
    logger.info("%s: %s", name, counts_line(records, classes), extra=FILE_ONLY)


def _pairs(cfg: CfgNode, records: list[Record]) -> list[Record]:
    if not find_family(cfg).queries_classes:
        name = cfg.MODEL.META_ARCHITECTURE
        raise UserError(f"DATASETS.PAIRS: {name} cannot be queried with one class; set it False")
    return training_pairs(records)


@setting("MODEL.MASK_FORMER.UNNAMED_TARGETS")
def _unnamed_regions(cfg: CfgNode, records: list[Record], name: str) -> UnnamedRegions | None:
    """Open the folder of proposals; they were made at the test size of the data set `name`."""
    path = cfg.MODEL.MASK_FORMER.UNNAMED_TARGETS
    if not path:
        return None
    folder = ProposalFolder(Path(path), None, create=False)
    folder.require(record.image_id for record in records)
    return UnnamedRegions(folder, eval_transform(cfg, find_benchmark(name)))


def micro_batch_size(cfg: CfgNode) -> int:
    """Return the number of images in one forward and backward pass on one device."""
    solver, parts = cfg.SOLVER, cfg.SOLVER.ACCUMULATE * world_size()
    if solver.ACCUMULATE < 1 or solver.IMS_PER_BATCH < 1 or solver.IMS_PER_BATCH % parts:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} cannot be shared by {world_size()} "
            f"processes with SOLVER.ACCUMULATE {solver.ACCUMULATE}: not a multiple of {parts}"
        )
    return solver.IMS_PER_BATCH // parts


def training_batches(cfg: CfgNode, dataset: SegmentationDataset, drawn: int) -> Loader:
    """Return the loader of this process's micro-batches.

    drawn: the number of images that all processes together have already used.
    """
    return training_loader(
        dataset,
        batch_size=micro_batch_size(cfg),
        seed=cfg.SEED,
        start=drawn,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        rank=rank(),
        world_size=world_size(),
    )
