"""PASCAL VOC 2012 with and without its background, and which classes each image has.

Published: palette pictures with 0 for background, 1-20, and 255 on the borders of objects. The
split `training_aug` joins the training sets of VOC and SBD: all images of `SegmentationClassAug`,
in its usual distribution, that are not in the validation set (10,582 images).
"""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from frozenseg.data.label_maps import read_labels
from frozenseg.data.prepare import options as shared
from frozenseg.data.prepare.labels import LabelConversion, lookup
from frozenseg.data.prepare.options import PreparationOptions, source_folder
from frozenseg.errors import UserError
from frozenseg.files import read_text, write_json

VOC = "VOCdevkit/VOC2012"
FOLDER = "pascal_voc_d2"
REMEDY = (
    "unpack VOCtrainval_11-May-2012.tar (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/) "
    "in the data root"
)
LISTS = {"training": "train", "validation": "val"}
AUGMENTED = "training_aug"
AUGMENTED_REMEDY = (
    "put SegmentationClassAug there, the label maps of VOC 2012 and SBD together (12,031 files); "
    "PASCAL-5i is trained on them"
)


def image_list(folder: Path, remedy: str) -> list[str]:
    """Read the image names in a list of VOC, one per line."""
    if not folder.is_file():
        raise UserError(f"{folder}: no such file; {remedy}")
    names = read_text(folder).split()
    if not names:
        raise UserError(f"{folder}: names no image; {remedy}")
    return names


def stems(root: Path, split: str) -> list[str]:
    """Return the names of the images of a split, without suffix."""
    if split == AUGMENTED:
        held_out = set(stems(root, "validation"))
        folder = root / VOC / "SegmentationClassAug"
        labels = shared.files_by_stem(folder, ".png", AUGMENTED_REMEDY)
        return [stem for stem in labels if stem not in held_out]
    path = root / VOC / "ImageSets" / "Segmentation" / f"{LISTS[split]}.txt"
    return image_list(path, REMEDY)


def published_labels(root: Path, split: str) -> dict[str, Path]:
    """Return {stem: published label map} of a split."""
    name = "SegmentationClassAug" if split == AUGMENTED else "SegmentationClass"
    folder = source_folder(root / VOC / name, REMEDY)
    return {stem: folder / f"{stem}.png" for stem in stems(root, split)}


def with_background(path: Path) -> np.ndarray:
    """Read labels 0-20 and 255 as published, without the palette."""
    return lookup(_published(path), {label: label for label in range(21)}, 255)


def without_background(path: Path) -> np.ndarray:
    """Read class ids: 1-20 become 0-19; background and borders are 255."""
    return lookup(_published(path), {label: label - 1 for label in range(1, 21)}, 255)


def _published(path: Path) -> np.ndarray:
    labels = read_labels(path)
    if ((labels > 20) & (labels != 255)).any():
        raise UserError(f"{path}: holds labels other than 0-20 and 255; unpack it again")
    return labels


LABELS_20 = LabelConversion(f"{FOLDER}/annotations_pascal20", published_labels, without_background)
LABELS_21 = LabelConversion(f"{FOLDER}/annotations_pascal21", published_labels, with_background)


def prepare(root: Path, split: str, options: PreparationOptions) -> None:
    """Write the label maps, the images, and the classes in each image of a split."""
    LABELS_21.write(root, split, options)
    if split != AUGMENTED:  # no benchmark uses this split without background
        LABELS_20.write(root, split, options)
    names = stems(root, split)
    place_images(root, VOC, FOLDER, split, names, options)
    write_present(root / FOLDER / f"classes_in_{split}.json", split, names, _classes_in, options)
    if split == "validation":
        target = root / FOLDER / f"oslsm_pairs_in_{split}.json"
        write_present(target, split, names, oslsm_pairs, options)


def write_present(
    target: Path,
    split: str,
    names: list[str],
    classes_of: Callable[[np.ndarray], list[int]],
    options: PreparationOptions,
) -> None:
    """Write {stem: classes 0-20 of its label map}, from which folds choose their images."""
    if options.must_write(target):
        folder = target.parent / "annotations_pascal21" / split
        one = functools.partial(_listed, folder, classes_of)
        write_json(target, dict(options.map(one, names, f"{FOLDER} {target.stem}")))


def _listed(
    folder: Path, classes_of: Callable[[np.ndarray], list[int]], stem: str
) -> tuple[str, list[int]]:
    return stem, classes_of(read_labels(folder / f"{stem}.png"))


def _classes_in(labels: np.ndarray) -> list[int]:
    return [int(label) for label in np.unique(labels) if label <= 20]


def oslsm_pairs(labels: np.ndarray) -> list[int]:
    """List the classes 1-20 that OSLSM (arXiv 1709.03410) queries an image with.

    labels: (H, W). A class is listed if it has more than two pixels in a grid of every 32nd pixel
    of every 32nd row.
    """
    classes, pixels = np.unique(labels[1::32, 1::32], return_counts=True)
    return [int(c) for c, n in zip(classes, pixels, strict=True) if 1 <= c <= 20 and n > 2]


def place_images(
    root: Path, voc: str, folder: str, split: str, names: list[str], options: PreparationOptions
) -> None:
    """Link the images of a list beside their label maps."""
    images = source_folder(root / voc / "JPEGImages", REMEDY)
    targets = [root / folder / "images" / split / f"{stem}.jpg" for stem in names]
    if options.again:
        shared.remove_others(targets)
    for target in targets:
        if options.must_write(target):
            shared.place_image(images / target.name, target)
