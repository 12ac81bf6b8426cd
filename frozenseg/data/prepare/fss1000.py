"""FSS-1000 as label maps: 1,000 classes with ten images each, one object marked in each image.

Published: `CLASS/1.jpg` ... `CLASS/10.jpg` and beside each a picture of its object, white on black,
`CLASS/1.png`; and `fss_test_set.txt`, the names of the 240 test classes. All other classes are the
split `train`. Class names are written with spaces; class ids follow the list for `test`, the
alphabet for `train`.
"""

import functools
from pathlib import Path

import numpy as np

from frozenseg.data.label_maps import open_map
from frozenseg.data.prepare.labels import LabelConversion
from frozenseg.data.prepare.work import Work, place_image, source_folder
from frozenseg.errors import UserError
from frozenseg.files import atomic_path

SOURCE = "FSS-1000"
FOLDER = "fss1000_d2"
TEST_LIST = "fss_test_set.txt"
REMEDY = (
    "unpack the images (fewshot_data.zip) and put fss_test_set.txt there, both of "
    "https://github.com/HKUSTCV/FSS-1000"
)
BACKGROUND = 65534  # labelled, but of no class; all pixels are labelled
INNER = "fewshot_data"  # the folder in the archive; the classes may also lie directly in SOURCE


def class_names(root: Path, split: str) -> list[str]:
    """The classes of a split as their folders are named, by class id."""
    return list(_classes(root / SOURCE, split))


@functools.cache
def _classes(source: Path, split: str) -> tuple[str, ...]:
    path = source / TEST_LIST
    if not path.is_file():
        raise UserError(f"{path}: no such file; {REMEDY}")
    listed = [name.strip() for name in path.read_text(encoding="utf-8").splitlines()]
    tested = tuple(name for name in listed if name)
    if split == "test":
        return tested
    folders = {entry.name for entry in _images(source).iterdir() if entry.is_dir()}
    return tuple(sorted(folders - set(tested)))


def _images(source: Path) -> Path:
    return source / INNER if (source / INNER).is_dir() else source


def published_labels(root: Path, split: str) -> dict[str, Path]:
    """{CLASS_NUMBER: picture of the object}."""
    folder = _images(source_folder(root / SOURCE, REMEDY))
    found: dict[str, Path] = {}
    for name in class_names(root, split):
        pictures = sorted(source_folder(folder / name, REMEDY).glob("*.png"))
        if not pictures:
            raise UserError(f"{folder / name}: holds no .png files; {REMEDY}")
        found |= {f"{name}_{int(path.stem):02d}": path for path in pictures if path.stem.isdigit()}
    if not found:
        raise UserError(f"{folder}: holds no class of the split {split}; {REMEDY}")
    return found


def class_ids(path: Path) -> np.ndarray:
    """(H, W) uint16: the class of the folder where the picture is bright, else `BACKGROUND`."""
    with open_map(path) as picture:
        object_mask = np.asarray(picture.convert("L")) > 127
    name, above = path.parent.name, path.parents[1]
    source = above.parent if above.name == INNER else above
    tested = _classes(source, "test")
    known = tested if name in tested else _classes(source, "train")
    return np.where(object_mask, known.index(name), BACKGROUND).astype(np.uint16)


LABELS = LabelConversion(
    f"{FOLDER}/annotations", published_labels, class_ids, ignore=65535, suffix=".tif"
)


def prepare(root: Path, split: str, work: Work) -> None:
    _classes.cache_clear()
    sources = published_labels(root, split)
    _write_classes(root, split, work)
    LABELS.write(root, split, work)
    for stem, path in sources.items():
        target = root / FOLDER / "images" / split / f"{stem}.jpg"
        if work.wanted(target):
            place_image(path.with_suffix(".jpg"), target)


def _write_classes(root: Path, split: str, work: Work) -> None:
    path = root / FOLDER / f"classes_{split}.txt"
    if not work.wanted(path):
        return
    names = [name.replace("_", " ") for name in class_names(root, split)]
    header = f"# The classes of FSS-1000, {split}, as its folders are named.\n[things]\n"
    with atomic_path(path) as temporary:
        temporary.write_text(header + "".join(f"{name}\n" for name in names), encoding="utf-8")
