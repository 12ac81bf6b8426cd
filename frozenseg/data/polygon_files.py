"""Read ultralytics' label files as the content of a COCO instance JSON.

Each image has a text file with one line for each object: the number of its class and the corners of
its outline, "class x y x y ...", as fractions of the width and the height of the image. The path of
the file is that of the image, with `labels` in place of the last folder `images` and the suffix
`.txt`. An image without a file, or with an empty file, has no objects.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frozenseg.data.image_files import files_below, image_suffixes
from frozenseg.data.label_maps import image_size
from frozenseg.errors import UserError
from frozenseg.files import read_text
from frozenseg.notes import note

FEWEST = 7  # the fewest numbers of an object: a class and three corners
BOX = 5  # the numbers of an object of which only the box is annotated
TOLERANCE = 0.01  # corners in real files may lie outside 0-1 by this much


def polygon_content(sources: Sequence[str], root: str, names: Sequence[str]) -> dict[str, Any]:
    """Return {"images", "annotations", "categories"} of a split, with absolute file names.

    sources: folders, searched with all folders in them that are not hidden, and text files that
    list images. root: the folder that all of them lie in. names: the classes, in the order of their
    numbers.

    The id of an image is its file name without suffix; if two images share one, all ids are paths
    below `root`.
    """
    images = list(dict.fromkeys(path for source in sources for path in _images_of(Path(source))))
    if not images:
        raise UserError(f"{sources[0]}: holds no images; copy them there, or correct the path")
    ids = [image.stem for image in images]
    if len(set(ids)) < len(ids):
        ids = [os.path.relpath(image.with_suffix(""), root) for image in images]
    labels = [label_file(image) for image in images]
    absent = [label for label in labels if not label.is_file()]
    if len(absent) == len(images):
        raise UserError(f"{absent[0]}: no such file; none of {len(images)} images has a label file")
    if absent:
        note(f"{root}: {len(absent)} of {len(images)} images have no label file: no objects")
    entries, annotations = [], []
    for image, key, label in zip(images, ids, labels, strict=True):
        height, width = image_size(image)
        entries.append({"id": key, "file_name": str(image), "height": height, "width": width})
        annotations += [
            {"image_id": key, "category_id": number, "segmentation": [polygon]}
            for number, polygon in _objects(label, height, width, len(names))
        ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    return {"images": entries, "annotations": annotations, "categories": categories}


def label_file(image: Path) -> Path:
    """Return the path of the label file of an image."""
    folders = list(image.parts[:-1])
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return Path(*folders, f"{image.stem}.txt")


def _images_of(source: Path) -> list[Path]:
    """List the images in a folder and all folders below it, or those that a text file lists."""
    suffixes = frozenset(image_suffixes())
    if source.is_file() and source.suffix.lower() in suffixes:
        raise UserError(f"{source}: an image; name its folder, or a text file that lists images")
    if not source.is_dir():
        lines = (line.strip() for line in read_text(source).splitlines())
        return [Path(os.path.normpath(source.parent / line)) for line in lines if line]
    files, links = files_below(source, recursive=True)
    if links:
        note(f"{source}: {links} links to folders in it are not followed; name them in the split")
    return sorted(path for path in files if path.suffix.lower() in suffixes and path.is_file())


def _objects(path: Path, height: int, width: int, classes: int) -> list[tuple[int, list[float]]]:
    """Read (class, polygon in pixels) of each line of a label file; [] if it does not exist."""
    found = []
    for number, line in enumerate(read_text(path).splitlines() if path.is_file() else (), 1):
        words, where = line.split(), f"{path}: line {number}"
        if not words:
            continue
        try:
            values = [float(word) for word in words]
        except ValueError:
            raise UserError(f"{where}: holds a word that is not a number; correct it") from None
        if len(values) < FEWEST or len(values) % 2 == 0:
            what = "is a box, which has no mask" if len(values) == BOX else "is not a polygon"
            raise UserError(f"{where}: {what}; 'class x y x y x y ...' was expected")
        if values[0] not in range(classes):
            raise UserError(f"{where}: class {words[0]} is not in 0 to {classes - 1}; correct it")
        # NaN is refused too, because comparisons with it are false.
        if not all(-TOLERANCE <= value <= 1 + TOLERANCE for value in values[1:]):
            raise UserError(
                f"{where}: corners must be fractions of the image's sides, 0 to 1; correct it"
            )
        sides = [width, height] * (len(values) // 2)
        polygon = [min(max(v, 0.0), 1.0) * side for v, side in zip(values[1:], sides, strict=True)]
        found.append((int(values[0]), polygon))
    return found
