"""TEST.SAVE_PREDICTIONS: which predictions of a data set are kept, where, and in which form."""

import shutil
from pathlib import Path

from fvcore.common.config import CfgNode

from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.benchmarks.short_names import short_names
from frozenseg.data.dataset import SegmentationDataset
from frozenseg.engine.distributed import barrier, is_main
from frozenseg.evaluation.kept_files import (
    CityscapesInstanceFiles,
    InstanceFiles,
    KeptFiles,
    LabelFiles,
    PanopticFiles,
    file_stems,
)
from frozenseg.files import writing

FOLDER = "predictions"


def kept_files(
    cfg: CfgNode,
    name: str,
    benchmark: Benchmark,
    dataset: SegmentationDataset,
    tasks: tuple[str, ...],
    *,
    clear: bool,
) -> dict[str, KeptFiles]:
    """Return what keeps the predictions of a data set, by task; none without TEST.SAVE_PREDICTIONS.

    clear: whether files of an earlier evaluation of the set are removed first.
    """
    if not cfg.TEST.SAVE_PREDICTIONS:
        return {}
    folder = predictions_folder(cfg, name)
    if clear and is_main():
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
    barrier()
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
    """Return the folder of a set of DATASETS.TEST below OUTPUT_DIR."""
    short = short_names(cfg.DATASETS.TEST)[name]
    return Path(cfg.OUTPUT_DIR) / FOLDER / short.strip("/").replace("/", "_").replace(":", "_")
