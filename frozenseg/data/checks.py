"""Checks of annotation files that need no pixels: fields, category ids, files that are there."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frozenseg.data.records import Categories
from frozenseg.errors import UserError
from frozenseg.files import read_json
from frozenseg.text.names import clean, refuse_repeated


def read_annotations(path: Path, *keys: str) -> dict[str, Any]:
    """The content of an annotation JSON, whose `keys` must all be lists of objects."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: a JSON object with {', '.join(keys)} was expected")
    for key in keys:
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(
                f"{path}: no list of objects under {key!r}; the file needs {', '.join(keys)} "
                "as in COCO's format"
            )
    return content


@contextmanager
def naming(path: Path, entry: str) -> Iterator[None]:
    """Turn a field that is absent or of a wrong kind into a `UserError` that names the entry."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"{path}: {entry} has no field {error}; add it, as COCO has it") from None
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(f"{path}: {entry} is malformed ({error}); correct it") from None


def read_categories(content: dict[str, Any], path: Path) -> Categories:
    """The categories of an annotation file by ascending id; without `isthing`, all are things."""
    rows: dict[int, tuple[str, bool]] = {}
    for position, entry in enumerate(content["categories"]):
        with naming(path, f"categories[{position}]"):
            category_id = int(entry["id"])
            name = clean(entry["name"], f"{path}: the name of categories[{position}]")
            row = name, bool(entry.get("isthing", 1))
        if category_id in rows:
            raise UserError(f"{path}: category id {category_id} is listed twice; remove one")
        rows[category_id] = row
    if not rows:
        raise UserError(f"{path}: the list of categories is empty; add the classes")
    ids = sorted(rows)
    refuse_equal_names({i: rows[i][0] for i in ids}, str(path))
    return Categories(
        names=tuple(rows[i][0] for i in ids),
        is_thing=tuple(rows[i][1] for i in ids),
        dataset_ids=tuple(ids),
    )


def refuse_equal_names(names: Mapping[int, str], source: str) -> None:
    """Two categories of one name are two classes that nothing tells apart, of which a model can
    find one alone. names: by category id."""
    refuse_repeated(
        [[name] for name in names.values()],
        [f"category {i}" for i in names],
        source,
        "rename one, or leave out the one that no annotation uses",
    )


def class_id_of(category_id: int, categories: Categories, path: Path, entry: str) -> int:
    """The class id of a dataset's category id, which must be listed."""
    class_id = categories.class_ids.get(category_id)
    if class_id is None:
        raise UserError(
            f"{path}: {entry} has category_id {category_id!r}, which is not among the file's "
            f"{len(categories)} categories; correct it or list the category"
        )
    return class_id


def images_by_id(content: dict[str, Any], path: Path) -> dict[int | str, dict[str, Any]]:
    """The image entries by id; ids are unique, heights and widths are positive."""
    images: dict[int | str, dict[str, Any]] = {}
    for position, entry in enumerate(content["images"]):
        name = f"images[{position}]"
        with naming(path, name):
            image_id, height, width = entry["id"], entry["height"], entry["width"]
            positive = height > 0 and width > 0
            known = image_id in images
        if not positive:
            raise UserError(f"{path}: {name} has size {height} x {width}; correct it")
        if known:
            raise UserError(f"{path}: image id {image_id!r} is listed twice; remove one")
        images[image_id] = entry
    if not images:
        raise UserError(f"{path}: lists no images; is it the right file?")
    return images


def require_files(paths: list[str], what: str, source: Path) -> None:
    """Check that all `paths` exist, with one directory listing per folder (not one call per file).

    what: "images" or the like, and source: the file or folder that asks for them, for the message.
    """
    names: dict[str, set[str]] = {}
    missing: list[str] = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in names:
            names[folder] = file_names(folder, what)
        if name not in names[folder]:
            missing.append(path)
    if missing:
        raise UserError(
            f"{missing[0]}: no such file; {len(missing)} of {len(paths)} {what} listed by {source} "
            "are missing: copy them there, or correct the list"
        )


def file_names(folder: str | Path, what: str) -> set[str]:
    """The names of the files in `folder`, which must be there."""
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no such folder ({what}); put the dataset there, or set "
            "$DETECTRON2_DATASETS to the folder that holds it"
        ) from None
    except NotADirectoryError:
        raise UserError(f"{folder}: is a file, a folder of {what} was expected") from None
    except PermissionError:
        raise UserError(f"{folder}: may not be read ({what}); change its permissions") from None
