"""The user's own data sets, described by a YAML file: in our form, or in that of ultralytics.

    path: gizmos                  # folder of the splits' paths; default: the folder of this file
    names: classes.txt            # class list: a file, a list or {number: name}; default: the
                                  # names in the annotation
    things: [star, circle]        # default: as the annotation or the class list says
    train:                        # a split, by any name
      images: train/images
      annotations: train/panoptic.json
      labels: train/panoptic
    val: {images: val/images, annotations: val/panoptic.json, labels: val/panoptic}

A split has a COCO panoptic JSON and its PNGs (`annotations`, `labels`), only an instance JSON
(`annotations`), or only label maps (`labels`). A panoptic split may also have `instances`, a JSON
for AP, and `semantic_labels`, label maps for mIoU; if absent, they are derived from the PNGs.
`tasks` chooses what is scored, and `ignore` is the value of unlabelled pixels, which no class may
have. In ultralytics' form a split is a folder of images, a file that lists images, or a list of
these, and its objects are polygons in text files beside them. Its `download` is never run.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from frozenseg.data.benchmarks.own_files import POSSIBLE, own_row
from frozenseg.data.benchmarks.row import Benchmark, Reader
from frozenseg.data.json_fields import whole
from frozenseg.errors import UserError, nearest
from frozenseg.files import user_path
from frozenseg.text.names import shown
from frozenseg.text.parsing import FILES
from frozenseg.text.vocabulary import Vocabulary
from frozenseg.yaml_file import read_yaml

YAML_FORM = "DATA.yaml:SPLIT"
NAME = re.compile(r"(.+\.ya?ml)(?::([^:]+))?", re.IGNORECASE | re.DOTALL)
USUAL_SPLITS = ("train", "val", "test", "minival")
SETTINGS = ("path", "names", "things", "tasks", "ignore")
# Keys of ultralytics and Roboflow that are accepted and not used.
FOREIGN = ("nc", "download", "roboflow", "channels", "kpt_shape", "flip_idx", "kpt_names")
PATHS = ("images", "annotations", "labels", "semantic_labels", "instances")
OF_SPLIT = (*PATHS, "tasks", "ignore")


def is_yaml(name: str) -> bool:
    """Tell whether a name is the name of a YAML file, with or without a split."""
    return NAME.fullmatch(name) is not None


def row_of_yaml(name: str, root: Path) -> Benchmark:
    """Make the row of a split. root: the data root, below which a relative `path` may lie too."""
    match = NAME.fullmatch(name)
    assert match is not None, "asked for with is_yaml"
    file = Path(os.path.abspath(user_path(match[1])))
    values: dict[Any, Any] = {}
    for _, table in read_yaml(file, "data set"):
        values |= table
    splits = {key: value for key, value in values.items() if value and _is_split(key, value)}
    _refuse_unknown(values, (*SETTINGS, *USUAL_SPLITS), (*splits, *FOREIGN), str(file))
    split = match[2] or (next(iter(splits)) if len(splits) == 1 else None)
    if split is None or split not in splits:
        names = ", ".join(f"{match[1]}:{key}" for key in splits)
        raise UserError(f"{name}: name a split that the file has: {names or 'it has none'}")
    shared = {
        "class_list": _classes(file, values),
        "things": _texts(values["things"], f"{file}: things") if "things" in values else None,
    }
    make = _described if isinstance(splits[split], Mapping) else _of_polygons
    return make(file, split, values, _folder(file, values, root), shared)


def _is_split(key: object, value: object) -> bool:
    return key in USUAL_SPLITS or (isinstance(value, Mapping) and "images" in value)


def _described(
    file: Path, split: str, values: Mapping[Any, Any], folder: Path, shared: dict[str, Any]
) -> Benchmark:
    """Make the row of a split in our form."""
    where, entry = f"{file}: {split}", values[split]
    _refuse_unknown(entry, OF_SPLIT, (), where)
    paths = {
        key: str(folder / user_path(_text(entry[key], f"{where}: {key}")))
        for key in PATHS
        if entry.get(key) is not None
    }
    reader = _reader(paths, where)
    maps = paths.get("semantic_labels")
    if maps and not Path(maps).is_dir():  # else label maps would silently be derived instead
        raise UserError(f"{where}: semantic_labels: {maps}: no such folder; correct it")
    if reader == "semantic" and shared["class_list"] is None:
        raise UserError(f"{where}: label maps hold only numbers; list the classes as 'names'")
    options: dict[str, Any] = {**paths, **shared}
    if (ignore := entry.get("ignore", values.get("ignore"))) is not None:
        options["ignore"] = whole({"ignore": ignore}, "ignore", where, high=2**32 - 1)
    tasks = entry.get("tasks", values.get("tasks"))
    return own_row(reader, **options, **_scored(reader, tasks, where))


def _reader(paths: Mapping[str, str], where: str) -> Reader:
    """Find the format of a split by which paths it has."""
    if "images" not in paths or not paths.keys() & {"annotations", "labels"}:
        raise UserError(f"{where}: needs 'images', and 'annotations' or 'labels' or both")
    if paths.keys() >= {"annotations", "labels"}:
        return "panoptic"
    if paths.keys() & {"instances", "semantic_labels"}:
        raise UserError(
            f"{where}: 'instances' and 'semantic_labels' are only for a panoptic annotation; "
            "describe two data sets"
        )
    return "instances" if "annotations" in paths else "semantic"


def _of_polygons(
    file: Path, split: str, values: Mapping[Any, Any], folder: Path, shared: dict[str, Any]
) -> Benchmark:
    """Make the row of a split in the form of ultralytics."""
    where = f"{file}: {split}"
    if shared["class_list"] is None:
        raise UserError(f"{file}: label files hold only numbers; list the classes as 'names'")
    sources = [_beside(folder, user_path(text)) for text in _texts(values[split], where)]
    return own_row(
        "polygons",
        images=str(folder),
        image_sources=tuple(map(str, sources)),
        **shared,
        **_scored("polygons", values.get("tasks"), where),
    )


def _beside(folder: Path, path: Path) -> Path:
    """Join a path to `folder`; Roboflow writes "../train/images" for a folder inside it."""
    inside = Path(*(part for part in path.parts if part != ".."))
    return folder / (inside if not (folder / path).exists() else path)


def _scored(reader: Reader, tasks: object, where: str) -> dict[str, Any]:
    """Return the field `evaluators` of a row, if `tasks` says what is scored."""
    if tasks is None:
        return {}
    chosen = _texts(tasks, f"{where}: tasks")
    for task in chosen:
        if task not in POSSIBLE[reader]:
            possible = ", ".join(POSSIBLE[reader])
            raise UserError(f"{where}: tasks: {shown(task)} is not possible here, only {possible}")
    return {"evaluators": tuple(task for task in POSSIBLE[reader] if task in chosen)}


def _folder(file: Path, values: Mapping[Any, Any], root: Path) -> Path:
    """Find the folder of the splits' paths: beside the file, or below the data root."""
    stated = user_path(_text(values.get("path") or ".", f"{file}: path"))
    places = [file.parent / stated, Path(os.path.abspath(root)) / stated]
    return next((place for place in places if place.is_dir()), places[0])


def _classes(file: Path, values: Mapping[Any, Any]) -> Vocabulary | None:
    """Read the class list: a file, a list that ships with the package, or names in the YAML."""
    names = values.get("names")
    if names is None:
        return None
    if isinstance(names, str) and names.lower().endswith(FILES):
        return Vocabulary.from_file(file.parent / user_path(names), may_repeat=True)
    try:
        if isinstance(names, str):
            return Vocabulary.packaged(_text(names, "the name of a list"))
        classes = replace(Vocabulary.parse(names), source=str(file))
    except UserError as error:
        raise UserError(f"{file}: names: {error}") from None
    if values.get("nc") not in (None, len(classes)):
        raise UserError(f"{file}: nc is {shown(values['nc'])}, but 'names' has {len(classes)}")
    return classes


def _refuse_unknown(
    table: Mapping[Any, Any], known: Sequence[str], others: Sequence[str], where: str
) -> None:
    """Refuse keys that are neither in `known` nor in `others`; only known keys are suggested."""
    for key in table:
        if key not in known and key not in others:
            raise UserError(f"{where}: unknown key {shown(key)}; {nearest(str(key), list(known))}")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"{where} is {shown(value)}: text was expected")
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    """Return a text, or the texts of a list, as a tuple."""
    return tuple(_text(entry, where) for entry in (value if isinstance(value, list) else [value]))
