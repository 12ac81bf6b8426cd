"""Scores of predictions on disk: read, check as much as possible at once, then feed the metrics.

Each `score_*` returns what its metric computes. Whatever does not fit is a `UserError` that names
the file and the entry. `progress` wraps the list of images that are worked through.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from frozenseg.data.coco_json import (
    ImageId,
    ListedImage,
    PanopticEntry,
    check_categories_agree,
    check_images_listed,
    check_names_agree,
    read_categories,
    read_images,
    read_panoptic_entries,
    unknown_image,
)
from frozenseg.data.json_fields import file_name, image_id, section
from frozenseg.data.label_maps import read_labels, read_panoptic_ids
from frozenseg.data.notes import note
from frozenseg.errors import UserError
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.label_files import (
    check_same_size,
    existing_folder,
    label_file_of,
    matching_files,
)
from frozenseg.evaluation.lvis import LvisAP
from frozenseg.evaluation.metric import Scores
from frozenseg.evaluation.panoptic import PanopticQuality, listed_segments
from frozenseg.evaluation.prediction_files import read_classes, read_detections, read_proposals
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
    categories = read_categories(truth, gt_file, panoptic=True)
    gt_entries = read_panoptic_entries(truth, categories, gt_file)
    if not gt_entries:
        raise UserError(f"{gt_file}: lists no annotations; is it the right file?")
    gt_names = {key: entry.file_name for key, entry in gt_entries.items()}
    _require_truth(not all(e.segments.is_crowd.all() for e in gt_entries.values()), gt_file)
    images = _listed_images(truth, gt_entries, gt_names, gt_file)
    found = read_json(pred_file)
    pred_entries = read_panoptic_entries(found, categories, pred_file)
    if found.get("categories"):
        check_categories_agree(read_categories(found, pred_file), categories, pred_file, gt_file)
    _check_same_images(gt_entries.keys(), pred_entries.keys(), pred_file)
    pred_names = {key: entry.file_name for key, entry in pred_entries.items()}
    check_names_agree(pred_names, gt_names, pred_file, gt_file)
    paths = {key: (gt_folder / gt_names[key], pred_folder / pred_names[key]) for key in gt_names}
    for gt_path, pred_path in paths.values():
        check_same_size(pred_path, gt_path)
    metric = PanopticQuality(
        categories=[
            {"id": category_id, "isthing": thing}
            for category_id, thing in zip(categories.dataset_ids, categories.is_thing, strict=True)
        ]
    )
    differ = total = resized = 0
    for key, (gt_path, pred_path) in progress(list(paths.items())):
        gt, gt_ids = gt_entries[key], read_panoptic_ids(gt_path)
        pixels = metric.update(
            key,
            read_panoptic_ids(pred_path),
            listed_segments(pred_entries[key].segments, categories),
            gt_ids,
            listed_segments(gt.segments, categories),
            sources=(f"{pred_path} (image {key} of {pred_file})", f"{gt_path} ({gt_file})"),
        )
        differ += _other_areas(gt, pixels)
        total += len(gt.areas)
        resized += key in images and gt_ids.shape != (images[key].height, images[key].width)
    if differ:
        note(
            f"{gt_file}: {differ} of {total} segments have another 'area' than pixels in their "
            "PNG: the pixels count"
        )
    if resized:
        note(
            f"{gt_file}: {resized} of {len(paths)} images state another size than their PNG has: "
            "the PNG counts"
        )
    return metric.compute()


def _require_truth(some: bool, source: str) -> None:
    """As `frozenseg.data.annotations.require_objects` for training and evaluation."""
    if not some:
        raise UserError(
            f"{source}: nothing can be scored, all of it is crowd or void; correct the annotation"
        )


def _listed_images(
    truth: Any, entries: Mapping[ImageId, PanopticEntry], names: Mapping[ImageId, str], source: str
) -> Mapping[ImageId, ListedImage]:
    """What a truth says of its images, if it does. Nothing here needs it, but a reader refuses what
    is wrong there."""
    if "images" not in truth:
        return {}
    images = read_images(truth, source)
    check_images_listed(entries, images, source)
    pictures = {key: image.entry.get("file_name") for key, image in images.items()}
    listed = {key: name for key, name in pictures.items() if name is not None}
    check_names_agree(names, listed, source, "its list of images")
    return images


def _other_areas(entry: PanopticEntry, pixels: np.ndarray) -> int:
    """How many segments state an area that is not the number of their pixels (G,)."""
    return sum(
        area is not None and area != counted
        for area, counted in zip(entry.areas, pixels.tolist(), strict=True)
    )


def score_instances(gt_file: str, pred_file: str, progress: Progress = iter) -> Scores:
    """COCO mask AP of a list of results with masks as RLE."""
    metric = InstanceAP(ground_truth=gt_file)
    return _score_detections(metric, gt_file, pred_file, progress)


def score_lvis(gt_file: str, pred_file: str, progress: Progress = iter) -> Scores:
    """LVIS mask AP of a list of results with masks as RLE."""
    metric = LvisAP(ground_truth=gt_file)
    return _score_detections(metric, gt_file, pred_file, progress)


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
        with _error_context(f"{pred_path} against {gt_path}"):
            metric.update(read_labels(pred_path), read_labels(gt_path))
    scores = metric.compute()
    _require_truth(not math.isnan(scores["mIoU"]), gt_dir)
    return scores


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
    if not listed:
        raise UserError(f"{images_file}: lists no images; is it the right file?")
    paths: dict[ImageId, Path] = {}
    owners: dict[Path, ImageId] = {}
    for i, image in enumerate(listed):
        where = f"{images_file}: images[{i}]"
        key = image_id(image, "id", where)
        if key in paths:
            raise UserError(f"{where}: image id {key!r} is listed twice; remove one")
        path = label_file_of(file_name(image, "file_name", where), folder)
        if owners.setdefault(path, key) != key:
            raise UserError(
                f"{where}: {path} is that of image {owners[path]!r} already; one image has one map"
            )
        paths[key] = path
    proposals = read_proposals(proposals_file, paths.keys())
    absent = paths.keys() - proposals.keys()
    if absent:
        logger.warning(
            "%s: has no entry for %d of %d images (one is %s); all their regions count as missed",
            *(proposals_file, len(absent), len(paths), min(absent, key=str)),
        )
    for key, path in progress(list(paths.items())):
        with _error_context(f"{proposals_file}: image {key} against {path}"):
            metric.update(proposals.get(key, []), read_labels(path))
    return metric.compute()


def _check_same_images(
    truths: Iterable[ImageId], predictions: Iterable[ImageId], source: str
) -> None:
    expected, found = set(truths), set(predictions)
    if found - expected:
        raise unknown_image(
            min(found - expected, key=str), expected, source, "those of the ground truth"
        )
    if expected - found:
        absent = min(expected - found, key=str)
        raise UserError(
            f"{source}: has no annotation for image {absent!r} ({len(expected - found)} of "
            f"{len(expected)} are missing); an image without segments needs an empty one"
        )


def _score_detections(
    metric: InstanceAP | LvisAP, gt_file: str, pred_file: str, progress: Progress
) -> Scores:
    by_image = read_detections(pred_file, metric.sizes.keys(), metric.category_ids)
    for key, results in progress(list(by_image.items())):
        with _error_context(pred_file):
            metric.update(
                key,
                [result["segmentation"] for result in results],
                None,
                [result["score"] for result in results],
                [result["category_id"] for result in results],
            )
    scores = metric.compute()
    _require_truth(not math.isnan(scores["AP"]), gt_file)
    return scores


SCORERS: dict[str, Callable[..., Scores]] = {
    "panoptic": score_panoptic,
    "instances": score_instances,
    "lvis": score_lvis,
    "semantic": score_semantic,
    "recall": score_recall,
}


@contextmanager
def _error_context(source: str) -> Iterator[None]:
    """Put the file in front of the message of a metric, which knows no files."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
