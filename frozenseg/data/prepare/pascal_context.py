"""PASCAL Context with 59 and with 459 classes, from the annotation that its authors published.

Published: `trainval/X.mat` with a `LabelMap` of 1-459 (0 for no class) for all images of VOC 2010,
and `labels.txt` with the class names. The lists of VOC 2010 say which images are for validation.
The 59 classes are the most frequent of the 459; in their label maps all others are unlabelled.
"""

import re
from pathlib import Path

import numpy as np
from scipy import io

from frozenseg.data.prepare.labels import LabelConversion, lookup
from frozenseg.data.prepare.options import PreparationOptions, source_folder
from frozenseg.data.prepare.pascal_voc import LISTS, image_list, place_images
from frozenseg.errors import UserError
from frozenseg.files import atomic_path, read_text

VOC = "VOCdevkit/VOC2010"
FOLDER = "pascal_ctx_d2"
VOC_REMEDY = (
    "unpack VOCtrainval_03-May-2010.tar (http://host.robots.ox.ac.uk/pascal/VOC/voc2010/) "
    "in the data root"
)
REMEDY = (
    "get trainval.tar.gz and labels.txt from https://www.cs.stanford.edu/~roozbeh/pascal-context/ "
    f"into {VOC}"
)

# The 59 among the 459, in the order of their class ids.
FREQUENT = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
# Names in the annotation, and more usual names for them, which CLIP has read more often.
SPACED = {
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
}


def stems(root: Path, split: str) -> list[str]:
    """Return the names of the images of a split, without suffix."""
    path = root / VOC / "ImageSets" / "Main" / f"{LISTS[split]}.txt"
    return image_list(path, VOC_REMEDY)


def published_labels(root: Path, split: str) -> dict[str, Path]:
    """Return {stem: published label map} of a split."""
    folder = source_folder(root / VOC / "trainval", REMEDY)
    return {stem: folder / f"{stem}.mat" for stem in stems(root, split)}


def frequent_class_ids(path: Path) -> np.ndarray:
    """Read class ids 0-58, and 255 for all other classes."""
    return lookup(_published(path), {label: i for i, label in enumerate(FREQUENT)}, 255)


def class_ids(path: Path) -> np.ndarray:
    """Read class ids: 1-459 become 0-458, and 0 becomes 65535."""
    return lookup(_published(path), {label: label - 1 for label in range(1, 460)}, 65535)


def _published(path: Path) -> np.ndarray:
    try:
        labels = io.loadmat(path)["LabelMap"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {REMEDY}") from None
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise UserError(
            f"{path}: cannot be read as a label map ({error}); unpack it again"
        ) from None
    if labels.ndim != 2 or labels.dtype.kind not in "iu" or labels.max(initial=0) > 459:
        raise UserError(f"{path}: its LabelMap is not a map of labels 0-459; unpack it again")
    return labels.astype(np.int64)


LABELS_59 = LabelConversion(f"{FOLDER}/annotations_ctx59", published_labels, frequent_class_ids)
LABELS_459 = LabelConversion(
    f"{FOLDER}/annotations_ctx459", published_labels, class_ids, ignore=65535, suffix=".tif"
)


def prepare(root: Path, split: str, options: PreparationOptions) -> None:
    """Write the class list, the label maps of 59 and 459 classes, and the images of a split."""
    _write_classes(root, options)
    LABELS_59.write(root, split, options)
    LABELS_459.write(root, split, options)
    place_images(root, VOC, FOLDER, split, stems(root, split), options)


def _write_classes(root: Path, options: PreparationOptions) -> None:
    path = root / FOLDER / "classes_459.txt"
    if not options.must_write(path):
        return
    folders = (root / VOC, root / VOC / "trainval")
    sources = [folder / "labels.txt" for folder in folders if (folder / "labels.txt").is_file()]
    if not sources:
        raise UserError(f"{folders[0] / 'labels.txt'}: no such file; {REMEDY}")
    rows = re.findall(r"^\s*(\d+)\s*:\s*(.+?)\s*$", read_text(sources[0]), re.MULTILINE)
    names = {int(number): name for number, name in rows if int(number)}
    if sorted(names) != list(range(1, 460)):
        raise UserError(
            f"{sources[0]}: names {len(names)} classes, one line `number: name` for each of 1-459 "
            "was expected; get it again"
        )
    lines = [
        f"{number}:{_spoken(names[number])}\n"
        for number in range(1, 460)  # in order, whatever the order of the file
    ]
    with atomic_path(path) as temporary:
        header = "# The 459 classes of PASCAL Context, as its labels.txt names them.\n"
        temporary.write_text(header + "".join(lines), encoding="utf-8")


def _spoken(name: str) -> str:
    return f"{SPACED[name]}, {name}" if name in SPACED else name
