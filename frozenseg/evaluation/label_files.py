"""Find the label maps in folders, and match them with images or with each other."""

from collections.abc import Iterable
from pathlib import Path

from frozenseg.data.folders import files_by_stem
from frozenseg.data.label_maps import LABEL_SUFFIXES, image_size
from frozenseg.errors import UserError


def check_same_size(path: Path, truth: Path) -> None:
    """Raise `UserError` unless a prediction is as large as its ground truth."""
    size, expected = image_size(path), image_size(truth)
    if size != expected:
        raise UserError(
            f"{path}: {size[0]} x {size[1]} pixels (height x width), its ground truth {truth} has "
            f"{expected[0]} x {expected[1]}; predict at the original size"
        )


def existing_folder(path: str | Path) -> Path:
    """Return `path`; raise `UserError` if it is not a folder."""
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return folder


def label_files(folder: Path) -> dict[str, Path]:
    """Return the label maps of a folder, {name without suffix: path}, in the order of names."""
    by_stem = files_by_stem(folder, LABEL_SUFFIXES, "label maps")
    if not by_stem:
        raise UserError(f"{folder}: holds no label maps ({', '.join(LABEL_SUFFIXES)})")
    return by_stem


def matching_files(gt_folder: Path, pred_folder: Path) -> list[tuple[Path, Path]]:
    """Return pairs (ground truth, prediction) of the label maps with the same name in two folders.

    Raises `UserError` if one of the folders lacks a label map that the other has.
    """
    truths, predictions = label_files(gt_folder), label_files(pred_folder)
    _check_names(truths.keys() - predictions.keys(), pred_folder, gt_folder)
    _check_names(predictions.keys() - truths.keys(), gt_folder, pred_folder)
    return [(path, predictions[name]) for name, path in truths.items()]


def label_file_of(file_name: str, folder: Path) -> Path:
    """Find the label map of an image: a file with its name and another suffix, which lies in
    `folder` either below the folders of `file_name` or directly."""
    name = Path(file_name)
    suffixes = (*LABEL_SUFFIXES, *map(str.upper, LABEL_SUFFIXES))
    for stem in (name.with_suffix(""), Path(name.stem)):
        paths = [folder / f"{stem}{suffix}" for suffix in suffixes]
        files = [path for path in paths if path.is_file()]
        if len(files) > 1 and not files[0].samefile(files[1]):
            raise UserError(
                f"{files[1]}: {files[0].name} belongs to the same image; keep one of them"
            )
        if files:
            return files[0]
    raise UserError(f"{folder / name.stem}.png: no such file, but image {file_name} is listed")


def _check_names(absent: Iterable[str], folder: Path, other: Path) -> None:
    names = sorted(absent)
    if names:
        more = f" and {len(names) - 1} others" if len(names) > 1 else ""
        raise UserError(f"{folder}: lacks {names[0]}.png{more}, which {other} has")
