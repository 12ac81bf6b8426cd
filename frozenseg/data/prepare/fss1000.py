"""FSS-1000 as label maps: 1,000 classes with ten images each, one object marked in each image.

Published: `CLASS/1.jpg` ... `CLASS/10.jpg` and beside each a picture of its object, white on black,
`CLASS/1.png`; and `fss_test_set.txt`, the names of the 240 test classes. The other 760 are split
into 520 for training and 240 for validation by lists that are not part of the data set, such as
HSNet's (arXiv 2104.01538), which were drawn at random. These lists must be present; they are never
drawn here. Class names are written with spaces; class ids follow the order of the lists.

A few pictures of objects differ in size from their image (`peregine_falcon/8`). They are resized to
it by the nearest pixel, as other projects do when they read them.
"""

import functools
import logging
from pathlib import Path

import numpy as np

from frozenseg.data.images import open_image
from frozenseg.data.label_maps import image_size
from frozenseg.data.prepare.labels import LabelConversion
from frozenseg.data.prepare.options import (
    PreparationOptions,
    place_image,
    remove_others,
    source_folder,
    write_source,
)
from frozenseg.data.transforms import resize_labels
from frozenseg.errors import UserError
from frozenseg.files import read_text

SOURCE = "FSS-1000"
FOLDER = "fss1000_d2"
LISTS = {"test": "fss_test_set.txt", "train": "trn.txt", "val": "val.txt"}
REMEDY = (
    "unpack the images (fewshot_data.zip) and put fss_test_set.txt there, both from "
    "https://github.com/HKUSTCV/FSS-1000"
)
SPLIT_REMEDY = (
    "put the lists of classes for training (trn.txt, 520) and validation (val.txt, 240) there, one "
    "per line: those of HSNet (https://github.com/juhongm999/hsnet, data/splits/fss), or your own"
)
BACKGROUND = 65534  # labelled, but of no class; all pixels are labelled
INNER = "fewshot_data"  # the folder in the archive; the classes may also lie directly in SOURCE

logger = logging.getLogger(__name__)


def class_names(root: Path, split: str) -> list[str]:
    """List the classes of a split by class id, as their folders are named."""
    return list(_classes(root / SOURCE, split))


@functools.cache
def _classes(source: Path, split: str) -> tuple[str, ...]:
    """Read the class list of a split; a name may occur only once, and not in an earlier list."""
    path = source / LISTS[split]
    if not path.is_file():
        raise UserError(f"{path}: no such file; {REMEDY if split == 'test' else SPLIT_REMEDY}")
    lines = [line.strip() for line in read_text(path).splitlines()]
    names = tuple(name for name in lines if name)
    taken: dict[str, str] = {}
    for before in list(LISTS)[: list(LISTS).index(split)]:
        taken |= dict.fromkeys(_classes(source, before), LISTS[before])
    for name in names:
        if name in taken:
            raise UserError(f"{path}: {name} is in {taken[name]} too; a class has only one split")
        taken[name] = "this list"
    return names


def _images(source: Path) -> Path:
    return source / INNER if (source / INNER).is_dir() else source


def published_labels(root: Path, split: str) -> dict[str, Path]:
    """Return {CLASS_NUMBER: picture of the object} of a split."""
    folder = _images(source_folder(root / SOURCE, REMEDY))
    labels: dict[str, Path] = {}
    for name in class_names(root, split):
        pictures = sorted(source_folder(folder / name, REMEDY).glob("*.png"))
        if not pictures:
            raise UserError(f"{folder / name}: holds no .png files; {REMEDY}")
        labels |= {f"{name}_{int(path.stem):02d}": path for path in pictures if path.stem.isdigit()}
    if not labels:
        raise UserError(f"{folder}: holds no class of the split {split}; {REMEDY}")
    return labels


def class_ids(path: Path) -> np.ndarray:
    """Read labels (H, W) uint16 in the size of the image.

    Bright pixels of the picture get the class of its folder, all others `BACKGROUND`.
    """
    with open_image(path) as picture:
        object_mask = np.asarray(picture.convert("L")) > 127
    object_mask = resize_labels(object_mask, image_size(path.with_suffix(".jpg")))
    name, above = path.parent.name, path.parents[1]
    source = above.parent if above.name == INNER else above
    known = _classes(source, _split_of(source, name))
    return np.where(object_mask, known.index(name), BACKGROUND).astype(np.uint16)


def _split_of(source: Path, name: str) -> str:
    """Find the split that lists a class."""
    for split in LISTS:
        if name in _classes(source, split):
            return split
    raise UserError(f"{source}: none of {', '.join(LISTS.values())} names the class {name}")


LABELS = LabelConversion(
    f"{FOLDER}/annotations", published_labels, class_ids, ignore=65535, suffix=".tif"
)


def prepare(root: Path, split: str, options: PreparationOptions) -> None:
    """Write the class list, the label maps and the images of a split."""
    _classes.cache_clear()
    sources = published_labels(root, split)
    _write_classes(root, split, options)
    for name, suffix in (("annotations", LABELS.suffix), ("images", ".jpg")):
        folder = root / FOLDER / name / split
        remove_others([folder / f"{stem}{suffix}" for stem in sources])
    LABELS.write(root, split, options)
    _say_resized(list(sources.values()), split, options)
    for stem, path in sources.items():
        target = root / FOLDER / "images" / split / f"{stem}.jpg"
        if options.must_write(target):
            place_image(path.with_suffix(".jpg"), target)


def _say_resized(pictures: list[Path], split: str, options: PreparationOptions) -> None:
    flags = options.map(_is_resized, pictures, f"{FOLDER} sizes {split}")
    resized = [path for path, differs in zip(pictures, flags, strict=True) if differs]
    if resized:
        logger.warning(
            "%d of %d pictures of objects differ in size from their image and are resized to it "
            "by the nearest pixel: %s",
            *(len(resized), len(pictures), ", ".join(map(str, resized[:3]))),
        )


def _is_resized(path: Path) -> bool:
    return image_size(path) != image_size(path.with_suffix(".jpg"))


def _write_classes(root: Path, split: str, options: PreparationOptions) -> None:
    """Write the names in order of class id; refuse a file made from another list of classes."""
    path = root / FOLDER / f"classes_{split}.txt"
    names = [name.replace("_", " ") for name in class_names(root, split)]
    header = f"# The classes of FSS-1000, {split}, as its folders are named.\n[things]\n"
    text = header + "".join(f"{name}\n" for name in names)
    made = list((root / FOLDER / "annotations" / split).glob("[!.]*.tif"))
    refusal = (
        f"{path}: was made from another list than {LISTS[split]}, as were the label maps; "
        f"run frozenseg prepare_dataset fss1000 --split {split} --again"
    )
    write_source(path, text, made, options, refusal)
