"""Score predictions on disk: read the files, check their JSON, and pass each image to a metric.

Each `score_*` returns the scores of its metric. Files that do not belong together raise a
`UserError` that names the file and the entry. `progress` wraps the list of images, e.g. in a
progress bar.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from frozenseg.data.annotations import BACKGROUND_CLASS, VOID_CLASS, load_semantic
from frozenseg.data.coco_json import (
    ImageId,
    ListedImage,
    check_categories_agree,
    check_names_agree,
    read_categories,
    read_image_entries,
    read_images,
    unknown_image,
)
from frozenseg.data.json_fields import file_name
from frozenseg.data.label_maps import read_labels, read_panoptic_ids
from frozenseg.data.panoptic_json import PanopticEntry, check_images_listed, read_panoptic_entries
from frozenseg.data.records import Categories, Record
from frozenseg.errors import UserError
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.kept_files import file_stems
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
from frozenseg.notes import note

Item = TypeVar("Item")
Progress = Callable[[list[Item]], Iterable[Item]]
Truth = str | Mapping[str, Any]
"""An instance JSON, or its content."""

UNKNOWN = -3  # marks labels that are no class and not `ignore`; differs from VOID and BACKGROUND
MOST_LABELS = 1 << 16  # the number of different labels in a 16-bit label map

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _PanopticFiles:
    """A panoptic JSON, the folder of its PNGs, and its entries by image id."""

    json_path: str
    folder: Path
    entries: dict[ImageId, PanopticEntry]

    @property
    def names(self) -> dict[ImageId, str]:
        return {key: entry.file_name for key, entry in self.entries.items()}

    def png(self, key: ImageId) -> Path:
        return self.folder / self.entries[key].file_name


def score_panoptic(
    gt_file: str,
    gt_dir: str,
    pred_file: str,
    pred_dir: str,
    progress: Progress = iter,
    categories: Categories | None = None,
) -> Scores:
    """Score the panoptic quality of a prediction in COCO panoptic format: a JSON file and PNGs.

    categories: the categories of the ground truth, if the data set itself says which are things;
    None: those of its JSON.
    """
    gt_folder, pred_folder = existing_folder(gt_dir), existing_folder(pred_dir)
    content = read_json(gt_file)
    categories = categories or read_categories(content, gt_file, panoptic=True)
    gt = _PanopticFiles(gt_file, gt_folder, read_panoptic_entries(content, categories, gt_file))
    if not gt.entries:
        raise UserError(f"{gt_file}: lists no annotations; is it the right file?")
    _require_truth(not all(e.segments.is_crowd.all() for e in gt.entries.values()), gt_file)
    images = _listed_images(content, gt)
    pred = _read_panoptic_prediction(pred_file, pred_folder, gt, categories)
    metric = PanopticQuality(
        categories=[
            {"id": category_id, "isthing": thing}
            for category_id, thing in zip(categories.dataset_ids, categories.is_thing, strict=True)
        ]
    )
    wrong_areas = resized = 0
    for key in progress(list(gt.entries)):
        gt_entry = gt.entries[key]
        with _memory_named(gt.png(key)):
            gt_ids = read_panoptic_ids(gt.png(key))
            pixels = metric.update(
                key,
                read_panoptic_ids(pred.png(key)),
                listed_segments(pred.entries[key].segments, categories),
                gt_ids,
                listed_segments(gt_entry.segments, categories),
                sources=(
                    f"{pred.png(key)} (image {key} of {pred_file})",
                    f"{gt.png(key)} ({gt_file})",
                ),
            )
        wrong_areas += _wrong_areas(gt_entry, pixels)
        resized += key in images and gt_ids.shape != (images[key].height, images[key].width)
    _note_what_pixels_decide(gt, wrong_areas, resized)
    return metric.compute()


def _read_panoptic_prediction(
    json_path: str, folder: Path, gt: _PanopticFiles, categories: Categories
) -> _PanopticFiles:
    """Read a prediction, which must have the images, categories and sizes of its ground truth."""
    content = read_json(json_path)
    pred = _PanopticFiles(json_path, folder, read_panoptic_entries(content, categories, json_path))
    if content.get("categories"):
        listed = read_categories(content, json_path)
        check_categories_agree(listed, categories, json_path, gt.json_path)
    _check_same_images(gt.entries.keys(), pred.entries.keys(), json_path)
    check_names_agree(pred.names, gt.names, json_path, gt.json_path)
    for key in gt.entries:
        check_same_size(pred.png(key), gt.png(key))
    return pred


def _note_what_pixels_decide(gt: _PanopticFiles, wrong_areas: int, resized: int) -> None:
    if wrong_areas:
        total = sum(len(entry.areas) for entry in gt.entries.values())
        note(
            f"{gt.json_path}: {wrong_areas} of {total} segments state an 'area' that differs from "
            "the number of their pixels in the PNG; the pixels are used"
        )
    if resized:
        note(
            f"{gt.json_path}: {resized} of {len(gt.entries)} images state a size that differs from "
            "that of their PNG; the size of the PNG is used"
        )


def _require_truth(some: bool, source: str) -> None:
    """Refuse a ground truth without objects, as `require_objects` does for data sets."""
    if not some:
        raise UserError(
            f"{source}: nothing can be scored, since all is crowd or void; correct the annotation"
        )


def _listed_images(content: Any, gt: _PanopticFiles) -> Mapping[ImageId, ListedImage]:
    """Read the images that a ground truth lists, if it lists any.

    No score depends on the list, but errors in it are refused here as in the readers for training.
    """
    if "images" not in content:
        return {}
    images = read_images(content, gt.json_path)
    check_images_listed(gt.entries, images, gt.json_path)
    file_names = {key: image.entry.get("file_name") for key, image in images.items()}
    listed = {key: name for key, name in file_names.items() if name is not None}
    check_names_agree(gt.names, listed, gt.json_path, "its list of images")
    return images


def _wrong_areas(entry: PanopticEntry, pixels: np.ndarray) -> int:
    """Count the segments whose stated area differs from the number of their pixels, (G,)."""
    return sum(
        area is not None and area != counted
        for area, counted in zip(entry.areas, pixels.tolist(), strict=True)
    )


def score_instances(gt_file: Truth, pred_file: str, progress: Progress = iter) -> Scores:
    """Score the COCO mask AP of a results file with masks in RLE."""
    metric = InstanceAP(ground_truth=gt_file)
    return _score_detections(metric, gt_file, pred_file, progress)


def score_lvis(gt_file: Truth, pred_file: str, progress: Progress = iter) -> Scores:
    """Score the LVIS mask AP of a results file with masks in RLE."""
    metric = LvisAP(ground_truth=gt_file)
    return _score_detections(metric, gt_file, pred_file, progress)


def score_semantic(
    gt_dir: str, pred_dir: str, classes_file: str, ignore: int, progress: Progress = iter
) -> Scores:
    """Score the IoU of the label maps in two folders, which are matched by file name."""
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


def score_semantic_set(
    records: list[Record],
    names: list[str],
    labels: Sequence[int],
    pred_dir: str,
    ignore: int,
    progress: Progress = iter,
) -> Scores:
    """Score label maps against those of a data set, as the evaluation of a model does.

    names: the class names. labels: the label of each class in the predictions. The predictions must
    have the file names that the evaluation gives to kept predictions: those of the images, with
    another suffix.
    """
    if ignore in labels or not 0 <= ignore < MOST_LABELS:
        raise UserError(
            f"ignore label {ignore}: is the label of a class, or does not fit in a label map"
        )
    classes = np.full(MOST_LABELS, UNKNOWN, np.int32)
    classes[list(labels)], classes[ignore] = range(len(names)), VOID_CLASS
    metric = SemanticIoU(names=names, ignore=VOID_CLASS, background=BACKGROUND_CLASS)
    folder = existing_folder(pred_dir)
    pairs = [
        (record, label_file_of(f"{stem}.png", folder))
        for record, stem in zip(records, file_stems(records).values(), strict=True)
    ]
    for record, path in progress(pairs):
        with _error_context(f"{path} against {record.image_path}"):
            found = read_labels(path)
            unknown = np.unique(found[classes[found] == UNKNOWN])
            if len(unknown):
                raise UserError(
                    f"label {unknown[0]} is not a class; labels are {min(labels)} to "
                    f"{max(labels)}, or {ignore} for no class, as in kept predictions"
                )
            metric.update(classes[found], load_semantic(record))
    return metric.compute()


def score_recall(
    images_file: str,
    gt_dir: str,
    proposals_file: str,
    seen_file: str,
    ignore: int = 255,
    progress: Progress = iter,
) -> Scores:
    """Score how many regions of label maps are found by proposals.

    images_file: a JSON file that lists the images. gt_dir: the folder of the label maps.
    proposals_file: [{"image_id", "masks": [RLE, ...]}]. seen_file: the class names and whether each
    was seen in training, see `read_classes`. ignore: the label of pixels without a class.
    """
    folder = existing_folder(gt_dir)
    names, seen = read_classes(seen_file, needs_seen=True)
    metric = ProposalRecall(names=names, seen=seen or [], ignore=ignore)
    paths = _label_files(images_file, folder)
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


def _label_files(images_file: str, folder: Path) -> dict[ImageId, Path]:
    """Find the label map of each image that a JSON file lists."""
    images = read_image_entries(read_json(images_file), images_file)
    paths: dict[ImageId, Path] = {}
    owners: dict[Path, ImageId] = {}
    for i, (key, image) in enumerate(images.items()):
        where = f"{images_file}: images[{i}]"
        path = label_file_of(file_name(image, "file_name", where), folder)
        if owners.setdefault(path, key) != key:
            raise UserError(
                f"{where}: {path} is already the label map of image {owners[path]!r}; each image "
                "needs its own"
            )
        paths[key] = path
    return paths


def _check_same_images(
    truths: Iterable[ImageId], predictions: Iterable[ImageId], source: str
) -> None:
    expected, predicted = set(truths), set(predictions)
    if predicted - expected:
        raise unknown_image(
            min(predicted - expected, key=str), expected, source, "those of the ground truth"
        )
    if expected - predicted:
        absent = min(expected - predicted, key=str)
        raise UserError(
            f"{source}: has no annotation for image {absent!r} ({len(expected - predicted)} of "
            f"{len(expected)} are missing); an image without segments needs an empty annotation"
        )


def _check_same_ids(
    categories: Categories, gt_file: Truth, content: Mapping[str, Any], pred_file: str
) -> None:
    """Refuse predictions whose categories or images have other ids than in the ground truth.

    categories: the categories of the ground truth. content: the content of the predictions.
    """
    source = gt_file if isinstance(gt_file, str) else "the ground truth"
    truth = read_json(gt_file) if isinstance(gt_file, str) else gt_file
    if content.get("categories"):
        check_categories_agree(read_categories(content, pred_file), categories, pred_file, source)
    if content.get("images"):
        names, others = _image_names(content, pred_file), _image_names(truth, source)
        check_names_agree(names, others, pred_file, source)


def _image_names(content: Any, source: str) -> dict[ImageId, str]:
    """Return {image id: file name} of the images whose names are given. LVIS gives URLs instead."""
    entries = read_image_entries(content, source)
    given = {key: row.get("file_name") or row.get("coco_url") for key, row in entries.items()}
    return {key: name for key, name in given.items() if name}


def _score_detections(
    metric: InstanceAP | LvisAP, gt_file: Truth, pred_file: str, progress: Progress
) -> Scores:
    content = read_json(pred_file)
    if isinstance(content, dict):  # a whole data set, with its own lists of images and categories
        _check_same_ids(metric.categories, gt_file, content, pred_file)
    by_image = read_detections(content, pred_file, metric.sizes.keys(), metric.category_ids)
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
    source = gt_file if isinstance(gt_file, str) else "the ground truth"
    _require_truth(not math.isnan(scores["AP"]), source)
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
    """Put the file before the message of a metric, which does not know the file."""
    with _memory_named(source):
        try:
            yield
        except UserError as error:
            raise UserError(f"{source}: {error}") from None


@contextmanager
def _memory_named(source: object) -> Iterator[None]:
    """Turn a `MemoryError` into a `UserError` that names the file which was being read."""
    try:
        yield
    except MemoryError as error:
        raise UserError(f"{source}: needs more memory than there is ({error})") from None
