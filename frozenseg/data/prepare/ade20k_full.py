"""ADE20K with 847 classes, from the full release ADE20K_2021_17_01.

Published: beside `X.jpg` a picture `X_seg.png`, whose red and green channels hold a number between
1 and about 3,700 for the name of each object (`name_ndx` in `X.json`). 847 of these names are
scored: `ade20k_full_ids.txt` lists their numbers in the order of their class ids. Both the
selection and the order are MaskFormer's. The names are read from the JSON files.

As in MaskFormer's preparation, which FC-CLIP and others use, images and label maps whose shorter
side is above 512 are shrunk to it: images by OpenCV's bilinear filter (without averaging over the
pixels that are dropped), stored as JPEG with Pillow's default quality; labels by the pixel at the
upper left of each new pixel. `PreparationOptions.full_size` leaves both as they are.
"""

import functools
import json
import os
from importlib import resources
from pathlib import Path

import cv2
import numpy as np

from frozenseg.data.benchmarks.rows import ADE20K_FULL_SIDE
from frozenseg.data.images import open_image
from frozenseg.data.label_maps import image_size
from frozenseg.data.prepare import options as shared
from frozenseg.data.prepare.labels import LabelConversion, lookup
from frozenseg.data.prepare.options import PreparationOptions, place_image
from frozenseg.errors import UserError
from frozenseg.files import atomic_path

FOLDER = "ADE20K_2021_17_01"
REMEDY = (
    "register at https://groups.csail.mit.edu/vision/datasets/ADE20K/ and unpack the release there"
)


@functools.cache
def scored_ids() -> tuple[int, ...]:
    """Return the published number of each class, in the order of class ids."""
    path = resources.files("frozenseg.data.prepare") / "ade20k_full_ids.txt"
    return tuple(map(int, path.read_text(encoding="utf-8").split()))


def published_labels(root: Path, split: str) -> dict[str, Path]:
    """Return {stem: published label map} of a split."""
    return {
        path.name.removesuffix("_seg.png"): path for path in _walk(root, split, ending="_seg.png")
    }


def _walk(root: Path, split: str, ending: str) -> list[Path]:
    """List the files with this ending in the folders of all scenes, sorted by name.

    The folders beside the images are not entered: they hold the objects of each image in more than
    a hundred thousand files.
    """
    top = shared.source_folder(root / FOLDER / "images" / "ADE" / split, REMEDY)
    files = []
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("ADE_"))
        files += [Path(folder) / name for name in names if name.endswith(ending)]
    if not files:
        raise UserError(f"{top}: holds no *{ending}; {REMEDY}")
    return sorted(files, key=lambda path: path.name)


def full_size_class_ids(path: Path) -> np.ndarray:
    """Read class ids 0-846, and 65535 where there is another object or none."""
    with open_image(path) as picture:
        colours = np.asarray(picture.convert("RGB")).astype(np.int64)
    numbers = colours[..., 0] // 10 * 256 + colours[..., 1]
    return lookup(numbers, {number: i for i, number in enumerate(scored_ids())}, 65535)


def class_ids(path: Path) -> np.ndarray:
    """Read class ids as `full_size_class_ids` does, shrunk to the published size."""
    labels = full_size_class_ids(path)
    size = published_size(*labels.shape)
    rows, columns = (
        # the positions of OpenCV's nearest neighbour, but with any version of OpenCV
        np.floor(np.arange(new) * (1 / (new / old))).astype(int)
        for old, new in zip(labels.shape, size, strict=True)
    )
    return labels[rows][:, columns]


def published_size(height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) whose shorter side is at most `ADE20K_FULL_SIDE`."""
    side = ADE20K_FULL_SIDE
    if min(height, width) <= side:
        return height, width
    if width >= height:
        return side, round(width / height * side)
    return round(height / width * side), side


LABELS = LabelConversion(
    f"{FOLDER}/annotations_detectron2",
    published_labels,
    class_ids,
    ignore=65535,
    suffix=".tif",
    full_size=full_size_class_ids,
)


def prepare(root: Path, split: str, options: PreparationOptions) -> None:
    """Write the class list, the label maps and the images of a split."""
    _write_classes(root, options)
    target = root / FOLDER / "images_detectron2" / split
    images = {
        path.with_name(f"{stem}.jpg"): target / f"{stem}.jpg"
        for stem, path in published_labels(root, split).items()
    }
    _refuse_other_sizes(root, split, images, options)
    LABELS.write(root, split, options)
    if options.again:
        shared.remove_others(images.values())
    jobs = [(source, target) for source, target in images.items() if options.must_write(target)]
    one = functools.partial(_write_image, options.full_size)
    options.map(one, jobs, f"{FOLDER} images {split}")


def _refuse_other_sizes(
    root: Path, split: str, images: dict[Path, Path], options: PreparationOptions
) -> None:
    """Refuse to keep files that another choice of `full_size` has made.

    images: {published image: image that is written}.
    """
    labels = root / LABELS.target / split
    pairs = [
        (source, target)
        for source, image in images.items()
        for target in (image, labels / f"{image.stem}{LABELS.suffix}")
        if not options.must_write(target)
    ]
    one = functools.partial(_is_of_other_choice, options.full_size)
    flags = options.map(one, pairs, f"{FOLDER} sizes {split}")
    others = [target for (_, target), other in zip(pairs, flags, strict=True) if other]
    if others:
        made, flag = ("without", " --full-size") if options.full_size else ("with", "")
        raise UserError(
            f"{others[0]}: was made {made} --full-size ({len(others)} files); repeat that choice, "
            f"or run frozenseg prepare_dataset ade20k_full --split {split}{flag} --again"
        )


def _is_of_other_choice(full_size: bool, pair: tuple[Path, Path]) -> bool:
    source, target = pair
    is_large = min(image_size(target)) > ADE20K_FULL_SIDE
    return is_large != (full_size and min(image_size(source)) > ADE20K_FULL_SIDE)


def _write_image(full_size: bool, job: tuple[Path, Path]) -> None:
    """Shrink an image as published; one that is small enough is linked."""
    source, target = job
    size = image_size(source)
    height, width = published_size(*size)
    if full_size or (height, width) == size:
        place_image(source, target)
        return
    with open_image(source) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    shrunk = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    shared.write_picture(target, shrunk)


def _write_classes(root: Path, options: PreparationOptions) -> None:
    path = root / FOLDER / "classes_847.txt"
    if not options.must_write(path):
        return
    names = _names(root, options)
    missing = [number for number in scored_ids() if number not in names]
    if missing:
        raise UserError(
            f"{root / FOLDER}: no image names object {missing[0]} ({len(missing)} of 847 names are "
            "missing); names are taken from the JSON files of training and validation: unpack both"
        )
    lines = [f"{i}:{names[number]}\n" for i, number in enumerate(scored_ids(), start=1)]
    with atomic_path(path) as temporary:
        header = "# The 847 classes of ADE20K that are scored, as its files name them.\n"
        temporary.write_text(header + "".join(lines), encoding="utf-8")


def _names(root: Path, options: PreparationOptions) -> dict[int, str]:
    """Read {published number: names} from the files until all scored numbers have names."""
    paths = _walk(root, "validation", ending=".json")
    if (root / FOLDER / "images" / "ADE" / "training").is_dir():
        paths += _walk(root, "training", ending=".json")
    names: dict[int, str] = {}
    step = 2000
    for start in range(0, len(paths), step):
        batch = paths[start : start + step]
        for of_image in options.map(_names_in, batch, f"{FOLDER} names"):
            names = of_image | names
        if names.keys() >= set(scored_ids()):
            break
    return names


def _names_in(path: Path) -> dict[int, str]:
    try:  # some names of annotators are not UTF-8, those of objects are plain ASCII
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"), strict=False)
        objects = content["annotation"]["object"]
        return {int(entry["name_ndx"]): str(entry["name"]) for entry in objects}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not an annotation of ADE20K ({error}); unpack it again") from None
