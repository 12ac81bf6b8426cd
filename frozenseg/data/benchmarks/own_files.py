"""The user's own data sets, named by their files as "FORM:PATH:PATH"."""

import os
from typing import Any

from frozenseg.data.benchmarks.row import Benchmark, Reader
from frozenseg.errors import UserError
from frozenseg.files import user_path
from frozenseg.text.vocabulary import Vocabulary

FILES_FORMS = {
    "coco_panoptic": "coco_panoptic:JSON:PNG_DIR:IMAGE_DIR",
    "coco_instances": "coco_instances:JSON:IMAGE_DIR",
    "label_maps": "label_maps:IMAGE_DIR:LABEL_DIR:CLASSES",
    "images": "images:LIST:IMAGE_DIR",
}
# The tasks for which the ground truth of each reader can be scored. Objects can serve as semantic
# ground truth too, but a model that gives every pixel a class is then wrong wherever there is no
# object, so this is not done by default.
POSSIBLE = {
    "panoptic": ("panoptic", "semantic", "instances"),
    "instances": ("instances", "semantic", "lvis"),
    "polygons": ("instances", "semantic"),
    "semantic": ("semantic",),
    "images": ("panoptic", "semantic", "instances"),  # predicted, and kept for a server
}
USUAL = {**POSSIBLE, "instances": ("instances",), "polygons": ("instances",)}
LARGEST_BYTE = 255


def is_form(name: str) -> bool:
    """Tell whether a name begins with one of the forms of `FILES_FORMS`."""
    return name.partition(":")[0] in FILES_FORMS


def row_of_files(name: str) -> Benchmark:
    """Make the row of a data set that is named by its files."""
    form, _, paths = name.partition(":")
    parts = paths.split(":")
    if len(parts) != FILES_FORMS[form].count(":") or not all(parts):
        raise UserError(f"{name}: other paths were expected, as in {FILES_FORMS[form]}")
    # These paths are relative to the working folder, not to the data root.
    first, *others = [os.path.abspath(user_path(part)) for part in parts]
    if form == "coco_panoptic":
        return own_row("panoptic", annotations=first, labels=others[0], images=others[1])
    if form == "coco_instances":
        return own_row("instances", annotations=first, images=others[0])
    if form == "images" and first.lower().endswith(".json"):
        return own_row("images", annotations=first, images=others[0])
    if form == "images":
        named = Vocabulary.from_file(first, may_repeat=True)
        return own_row("images", images=others[0], class_list=named)
    classes = Vocabulary.from_file(others[1], may_repeat=True)
    return own_row("semantic", images=first, labels=others[0], class_list=classes)


def own_row(reader: Reader, *, class_list: Vocabulary | None = None, **fields: Any) -> Benchmark:
    """Make the row of a user's own data set. fields: those of `Benchmark`, with absolute paths."""
    # The value of unlabelled pixels must not be a class id of the list.
    many = class_list is not None and len(class_list) > LARGEST_BYTE
    usual: dict[str, Any] = {
        "tasks": USUAL[reader],
        "evaluators": USUAL[reader],
        "ignore": 2**16 - 1 if many else LARGEST_BYTE,
    }
    return Benchmark(reader=reader, class_list=class_list, **usual | fields)
