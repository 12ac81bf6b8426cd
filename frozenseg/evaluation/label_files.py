"""Folders of label maps: which image has which file."""

from collections.abc import Iterable
from pathlib import Path

from frozenseg.data.folders import files_by_stem
from frozenseg.data.label_maps import LABEL_SUFFIXES, image_size
from frozenseg.errors import UserError


def check_same_size(path: Path, truth: Path) -> None:
    """UserError unless a prediction is as large as its ground truth."""
    size, expected = image_size(path), image_size(truth)
    if size != expected:
        raise UserError(
            f"{path}: {size[0]} x {size[1]} pixels (height x width), its ground truth {truth} has "
            f"{expected[0]} x {expected[1]}; predict at the original size"
        )


def existing_folder(path: str | Path) -> Path:
    """`path` if it is a folder."""
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return folder


def label_files(folder: Path) -> dict[str, Path]:
    """{name without suffix: path} of all label maps in a folder, in the order of their names."""
    found = files_by_stem(folder, LABEL_SUFFIXES, "label maps")
    if not found:
        raise UserError(f"{folder}: holds no label maps ({', '.join(LABEL_SUFFIXES)})")
    return found


def matching_files(gt_folder: Path, pred_folder: Path) -> list[tuple[Path, Path]]:
    """(ground truth, prediction) of each image; both folders must know the same names."""
    truths, predictions = label_files(gt_folder), label_files(pred_folder)
    _check_names(truths.keys() - predictions.keys(), pred_folder, gt_folder)
    _check_names(predictions.keys() - truths.keys(), gt_folder, pred_folder)
    return [(path, predictions[name]) for name, path in truths.items()]


def label_file_of(file_name: str, folder: Path) -> Path:
    """The label map of an image: its file name with another suffix, with or without its folders."""
    name = Path(file_name)
    suffixes = (*LABEL_SUFFIXES, *map(str.upper, LABEL_SUFFIXES))
    for stem in (name.with_suffix(""), Path(name.stem)):
        paths = [folder / f"{stem}{suffix}" for suffix in suffixes]
        found = [path for path in paths if path.is_file()]
        if len(found) > 1 and not found[0].samefile(found[1]):
            raise UserError(f"{found[1]}: {found[0].name} is of the same image; keep one of them")
        if found:
            return found[0]
    raise UserError(f"{folder / name.stem}.png: no such file, but image {file_name} is listed")


def _check_names(absent: Iterable[str], folder: Path, other: Path) -> None:
    names = sorted(absent)
    if names:
        more = f" (nor {len(names) - 1} others)" if len(names) > 1 else ""
        raise UserError(f"{folder}: has no {names[0]}.png{more}, which {other} has")
