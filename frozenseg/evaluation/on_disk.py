"""Scores of predictions on disk: read, check as much as possible at once, then feed the metrics.

Each `score_*` returns what its metric computes. Whatever does not fit is a `UserError` that names
the file and the entry. `progress` wraps the list of images that are worked through.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from frozenseg.data.checks import refuse_equal_names
from frozenseg.data.label_maps import read_labels, read_panoptic_ids
from frozenseg.data.readers import warn_of_crowded_stuff
from frozenseg.errors import UserError
from frozenseg.evaluation.ground_truth import (
    category_names,
    field,
    index_by_id,
    section,
)
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.label_files import (
    check_same_size,
    existing_folder,
    label_file_of,
    matching_files,
)
from frozenseg.evaluation.lvis import LvisAP
from frozenseg.evaluation.metric import Scores
from frozenseg.evaluation.panoptic import PanopticQuality
from frozenseg.evaluation.prediction_files import (
    panoptic_annotations,
    read_classes,
    read_detections,
    read_proposals,
)
from frozenseg.evaluation.recall import ProposalRecall
from frozenseg.evaluation.semantic import SemanticIoU
from frozenseg.files import read_json

Item = TypeVar("Item")
Progress = Callable[[list[Item]], Iterable[Item]]

logger = logging.getLogger(__name__)


def score_panoptic(
    gt_file: str, gt_dir: str, pred_file: str, pred_dir: str, progress: Progress = iter
) -> Scores:
    """Panoptic quality of a prediction in COCO panoptic format: a JSON file and its PNGs."""
    gt_folder, pred_folder = existing_folder(gt_dir), existing_folder(pred_dir)
    truth = read_json(gt_file)
    categories = index_by_id(section(truth, "categories", gt_file), f"{gt_file}: categories")
    refuse_equal_names(category_names(categories), gt_file)
    for i, category in enumerate(categories.values()):
        if category.get("isthing") not in (0, 1):
            raise UserError(f"{gt_file}: categories[{i}]: 'isthing' must be 0 or 1")
    gt_annotations = panoptic_annotations(truth, categories, gt_file)
    pred_annotations = panoptic_annotations(read_json(pred_file), categories, pred_file)
    warn_of_crowded_stuff(_crowded_stuff(gt_annotations, categories), gt_file)
    _check_same_images(gt_annotations.keys(), pred_annotations.keys(), pred_file)
    paths = {
        image_id: (
            gt_folder / annotation["file_name"],
            pred_folder / pred_annotations[image_id]["file_name"],
        )
        for image_id, annotation in gt_annotations.items()
    }
    for gt_path, pred_path in paths.values():
        check_same_size(pred_path, gt_path)
    metric = PanopticQuality(categories=list(categories.values()))
    for image_id, (gt_path, pred_path) in progress(list(paths.items())):
        metric.update(
            image_id,
            read_panoptic_ids(pred_path),
            pred_annotations[image_id]["segments_info"],
            read_panoptic_ids(gt_path),
            gt_annotations[image_id]["segments_info"],
            sources=(f"{pred_path} (image {image_id} of {pred_file})", f"{gt_path} ({gt_file})"),
        )
    return metric.compute()


def _crowded_stuff(
    annotations: dict[int | str, dict[str, Any]], categories: dict[int, dict[str, Any]]
) -> int:
    """How many segments of stuff are marked as crowds."""
    segments = [row for annotation in annotations.values() for row in annotation["segments_info"]]
    marked = [row["category_id"] for row in segments if row.get("iscrowd")]
    return sum(not categories[category]["isthing"] for category in marked)


def score_instances(gt_file: str, pred_file: str, progress: Progress = iter) -> Scores:
    """COCO mask AP of a list of results with masks as RLE."""
    metric = InstanceAP(ground_truth=gt_file)
    return _score_detections(metric, pred_file, progress)


def score_lvis(gt_file: str, pred_file: str, progress: Progress = iter) -> Scores:
    """LVIS mask AP of a list of results with masks as RLE."""
    metric = LvisAP(ground_truth=gt_file)
    return _score_detections(metric, pred_file, progress)


def score_semantic(
    gt_dir: str, pred_dir: str, classes_file: str, ignore: int, progress: Progress = iter
) -> Scores:
    """IoU of label maps in two folders, matched by their names."""
    names, seen = read_classes(classes_file, needs_seen=False)
    metric = SemanticIoU(names=names, seen=seen, ignore=ignore)
    pairs = matching_files(existing_folder(gt_dir), existing_folder(pred_dir))
    for gt_path, pred_path in pairs:
        check_same_size(pred_path, gt_path)
    for gt_path, pred_path in progress(pairs):
        with _naming(f"{pred_path} against {gt_path}"):
            metric.update(read_labels(pred_path), read_labels(gt_path))
    return metric.compute()


def score_recall(
    images_file: str,
    gt_dir: str,
    proposals_file: str,
    seen_file: str,
    ignore: int = 255,
    progress: Progress = iter,
) -> Scores:
    """Recall of proposals: [{"image_id", "masks": [RLE, ...]}] against label maps in a folder."""
    folder = existing_folder(gt_dir)
    names, seen = read_classes(seen_file, needs_seen=True)
    metric = ProposalRecall(names=names, seen=seen or [], ignore=ignore)
    listed = section(read_json(images_file), "images", images_file)
    images = index_by_id(listed, f"{images_file}: images")
    paths = [
        (
            image_id,
            label_file_of(field(image, "file_name", str, f"{images_file}: images[{i}]"), folder),
        )
        for i, (image_id, image) in enumerate(images.items())
    ]
    proposals = read_proposals(proposals_file, images.keys())
    absent = images.keys() - proposals.keys()
    if absent:
        logger.warning(
            "%s: has no entry for %d of %d images (one is %s); all their regions count as missed",
            *(proposals_file, len(absent), len(images), min(absent)),
        )
    for image_id, path in progress(paths):
        with _naming(f"{proposals_file}: image {image_id} against {path}"):
            metric.update(proposals.get(image_id, []), read_labels(path))
    return metric.compute()


def _check_same_images(truths: Iterable[Any], predictions: Iterable[Any], source: str) -> None:
    expected, found = set(truths), set(predictions)
    if found - expected:
        unknown = min(found - expected, key=str)
        raise UserError(f"{source}: image {unknown} is not among those of the ground truth")
    if expected - found:
        absent = min(expected - found, key=str)
        raise UserError(
            f"{source}: has no annotation for image {absent} ({len(expected - found)} of "
            f"{len(expected)} are missing); an image without segments needs an empty one"
        )


def _score_detections(metric: InstanceAP | LvisAP, pred_file: str, progress: Progress) -> Scores:
    by_image = read_detections(pred_file, metric.sizes.keys(), metric.category_ids)
    for image_id, results in progress(list(by_image.items())):
        with _naming(pred_file):
            metric.update(
                image_id,
                [result["segmentation"] for result in results],
                None,
                [result["score"] for result in results],
                [result["category_id"] for result in results],
            )
    return metric.compute()


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Put the file in front of what a metric, which knows none, finds wrong."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
