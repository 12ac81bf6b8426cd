"""TEST.SAVE_PREDICTIONS: which predictions of a data set are kept, where, and in which form."""

import re
from pathlib import Path

from fvcore.common.config import CfgNode

from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.benchmarks.short_names import short_names
from frozenseg.data.dataset import SegmentationDataset
from frozenseg.engine.distributed import is_main
from frozenseg.evaluation.kept_files import (
    CityscapesInstanceFiles,
    InstanceFiles,
    KeptFiles,
    LabelFiles,
    PanopticFiles,
    file_stems,
)
from frozenseg.files import check_writable

FOLDER = "predictions"
LONGEST = 200  # bytes of a folder's name; file systems allow 255


def kept_files(
    cfg: CfgNode,
    name: str,
    benchmark: Benchmark,
    dataset: SegmentationDataset,
    tasks: tuple[str, ...],
) -> dict[str, KeptFiles]:
    """Return the writers of a data set's predictions, by task; {} without TEST.SAVE_PREDICTIONS.

    Files of an earlier evaluation of the set are kept until this one begins; see `Scoring.clear`.
    """
    if not cfg.TEST.SAVE_PREDICTIONS:
        return {}
    folder = predictions_folder(cfg, name)
    if is_main():
        check_writable(folder / "panoptic.json")
    stems, categories = file_stems(dataset.records), dataset.categories
    kept: dict[str, KeptFiles] = {}
    for task in tasks:
        if task == "panoptic":
            kept[task] = PanopticFiles(folder, stems, categories)
        elif task == "semantic":
            labels, none = benchmark.kept_labels(categories.dataset_ids)
            kept[task] = LabelFiles(folder, stems, labels=labels, none=none)
        elif task in ("instances", "lvis"):
            server = "coco" if task == "instances" else "lvis"
            results = f"{server}_instances_results.json"
            kept[task] = InstanceFiles(folder, stems, categories, results)
        elif task == "cityscapes":
            kept[task] = CityscapesInstanceFiles(folder, stems, categories)
    return kept


def predictions_folder(cfg: CfgNode, name: str) -> Path:
    """Return the folder inside OUTPUT_DIR for the predictions of a data set of DATASETS.TEST."""
    short = short_names(cfg.DATASETS.TEST)
    plain = {other: re.sub("[/:]", "_", text.strip("/")) for other, text in short.items()}
    folders = {other: text.encode(errors="ignore")[-LONGEST:] for other, text in plain.items()}
    place = folders[name].decode(errors="ignore")
    if list(folders.values()).count(folders[name]) > 1:
        place = f"{list(folders).index(name) + 1}_{place}"
    return Path(cfg.OUTPUT_DIR) / FOLDER / place
