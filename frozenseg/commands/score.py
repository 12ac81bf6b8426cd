"""Score predictions on disk; no model is needed."""

import argparse
import functools
from pathlib import Path
from typing import Any

from tqdm import tqdm

from frozenseg.commands.output_argument import output_file, refuse_input
from frozenseg.data.annotations import require_objects
from frozenseg.data.benchmarks import (
    Benchmark,
    benchmark_categories,
    data_root,
    find_benchmark,
    is_data_set,
    load_records,
    require_in_place,
)
from frozenseg.data.detection_truth import objects_of_records
from frozenseg.errors import UserError, one_line
from frozenseg.evaluation.on_disk import SCORERS, score_semantic_set
from frozenseg.files import write_json
from frozenseg.notes import note

IGNORED = 255
TRUTH = ("gt_file", "gt_dir")  # the arguments that name the ground truth


def main(argv: list[str]) -> int | None:
    """Score the predictions of a task, print a table, and write JSON if requested."""
    options = vars(_parser().parse_args(argv))
    task, output = options.pop("task"), options.pop("json")
    scorer = SCORERS[task]
    if task == "semantic":
        options |= _label_maps(options)
        scorer = score_semantic_set if "records" in options else scorer
    elif "gt_file" in options:
        options |= _truth(task, **{key: options[key] for key in TRUTH if key in options})
    files = (value for key, value in options.items() if key.endswith("_file"))
    refuse_input(output, (Path(value) for value in files if isinstance(value, str)))
    # disable=None: the bar is shown only if standard error is a terminal
    progress = functools.partial(tqdm, desc=task, unit="image", disable=None)
    scores = scorer(**options, progress=progress)
    try:  # the table is printed even if the file cannot be written; the file is written first
        if output is not None:
            write_json(output, scores, indent=1)
    finally:
        _print_table(scores)
    return 0


def _truth(task: str, gt_file: str, gt_dir: str | None = None) -> dict[str, Any]:
    """Return the scorer's arguments for the ground truth if `gt_file` is the name of a data set.

    They are empty if `gt_file` names a file.
    """
    if not is_data_set(gt_file):
        if task == "panoptic" and gt_dir is None:
            raise UserError("--gt-dir: give the folder with the PNGs of --gt")
        return {}
    if gt_dir is not None:
        raise UserError("--gt: the data set defines its PNGs; give no --gt-dir")
    root = data_root()
    row = _annotated(gt_file).located(root)
    if task == "panoptic":
        if row.reader != "panoptic":
            raise UserError(f"--gt {gt_file}: has no panoptic annotation; score its instances")
        require_in_place(gt_file, (row.annotations, row.labels), root)
        # The data set may define itself which classes are things.
        categories = None if row.things is None else benchmark_categories(row, root)
        files = {"gt_file": str(root / row.annotations), "gt_dir": str(root / row.labels)}
        return {**files, "categories": categories}
    if row.reader == "semantic":
        raise UserError(f"--gt {gt_file}: label maps have no objects; use frozenseg score semantic")
    if row.classes:  # a fold; its annotation file holds the objects of all classes
        raise UserError(f"--gt {gt_file}: a fold has no objects; use frozenseg score semantic")
    if row.derives_objects:
        return {"gt_file": objects_of_records(*load_records(gt_file))}
    source = row.instances or row.annotations
    require_in_place(gt_file, (source,), root)
    return {"gt_file": str(root / source)}


def _annotated(name: str) -> Benchmark:
    """Return the row of a data set; raise `UserError` if it has no annotation."""
    row = find_benchmark(name)
    if row.reader == "images":
        raise UserError(f"--gt {name}: has no annotation to score; name a data set that has one")
    return row


def _label_maps(options: dict[str, Any]) -> dict[str, Any]:
    """Return the scorer's arguments for ground truth given as label maps.

    The options that name it are removed from `options`.
    """
    name, folder, classes = (options.pop(key) for key in ("gt_file", "gt_dir", "classes_file"))
    if name is None:
        if folder is None or classes is None:
            raise UserError(
                "give the ground truth by --gt-dir and --classes, or a data set by --gt"
            )
        ignore = options["ignore"] if options["ignore"] is not None else IGNORED
        return {"gt_dir": folder, "classes_file": classes, "ignore": ignore}
    if folder is not None or classes is not None:
        raise UserError(
            "--gt: the data set defines its label maps and classes; give no --gt-dir or --classes"
        )
    row = _annotated(name)
    if row.reader == "instances" and not row.classes:  # a fold's label maps are made from objects
        raise UserError(f"--gt {name}: has no label maps; use frozenseg score instances")
    records, categories = load_records(name)
    require_objects(records, "semantic", name)
    labels, ignored = row.kept_labels(categories.dataset_ids)
    ignore = ignored if options["ignore"] is None else options["ignore"]
    if labels != [*range(len(labels))]:
        note(
            f"{name}: predictions are read with the labels {labels[0]} to {labels[-1]} for its "
            f"classes, and {ignored} for pixels without a class"
        )
    return {"records": records, "names": categories.names, "labels": labels, "ignore": ignore}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg score", description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")

    def add(task: str, summary: str, **arguments: str) -> argparse.ArgumentParser:
        """Add a task and return its parser; options are given as name="--flag what it is"."""
        added = tasks.add_parser(task, help=summary, description=summary)
        for name, meaning in arguments.items():
            flag, _, rest = meaning.partition(" ")
            # A data set that is named by --gt defines these itself.
            optional = {"gt_dir", "classes_file"} if "gt_file" in arguments else set()
            required = name not in optional and (name, task) != ("gt_file", "semantic")
            added.add_argument(flag, dest=name, required=required, metavar="PATH", help=rest)
        added.add_argument(
            "--json", type=output_file, metavar="OUT", help="also write the scores as JSON"
        )
        return added

    add(
        "panoptic",
        "PQ, SQ and RQ (fractions), as panopticapi counts them",
        gt_file="--gt COCO panoptic JSON of the ground truth, or the name of a data set",
        gt_dir="--gt-dir folder of its PNGs (unless --gt names a data set)",
        pred_file="--pred COCO panoptic JSON of the predictions",
        pred_dir="--pred-dir folder of their PNGs",
    )
    detections = {
        "gt_file": "--gt JSON of the ground truth, COCO instance format, or a data set's name",
        "pred_file": "--pred JSON list of image_id, category_id, score, segmentation (RLE), or the "
        "instances.json of the demo",
    }
    add("instances", "mask AP (fractions) by the rules of COCO", **detections)
    add("lvis", "mask AP, APr, APc, APf (fractions) by the rules of LVIS", **detections)
    label_maps = (
        add(
            "semantic",
            "mIoU, fwIoU, mACC and pACC (per cent), as detectron2 counts them",
            gt_file="--gt name of a data set, instead of --gt-dir and --classes",
            gt_dir="--gt-dir folder of label maps (PNG or TIFF)",
            pred_dir="--pred-dir folder of predicted label maps with the same names",
            classes_file="--classes JSON with 'names' by label; with 'seen', also the means over "
            "seen and unseen classes",
        ),
        add(
            "recall",
            "recall of mask proposals at IoU 0.5, 0.75 and 0.9 (per cent)",
            images_file="--images JSON with 'images' (id, file_name)",
            gt_dir="--gt-dir folder of label maps (PNG or TIFF)",
            proposals_file="--proposals JSON list: image_id, masks (COCO RLE)",
            seen_file="--seen JSON with 'names' by label and 'seen'",
        ),
    )
    for task in label_maps:
        task.add_argument(
            "--ignore",
            type=int,
            default=None if task is label_maps[0] else IGNORED,
            help=f"label of pixels without a class (default: {IGNORED}, or that of the data set)",
        )
    return parser


def _print_table(scores: dict[str, Any]) -> None:
    """Print one row for each number or group of numbers, with the rows of `per_class` last."""
    rows = {key: value for key, value in scores.items() if key != "per_class"}
    rows |= scores.get("per_class", {})
    rows = {one_line(key): value for key, value in rows.items()}
    width = max(len(key) for key in rows)
    groups = [value for value in rows.values() if isinstance(value, dict)]
    if groups:
        print(" " * width, *(f"{column:>9}" for column in groups[0]))
    for key, value in rows.items():
        numbers = value.values() if isinstance(value, dict) else [value]
        print(
            f"{key:{width}}", *(f"{n:9d}" if isinstance(n, int) else f"{n:9.4f}" for n in numbers)
        )
