"""The class lists and example images that the page offers."""

import functools
from pathlib import Path
from typing import Any

from frozenseg.files import shipped
from frozenseg.text.vocabulary import Vocabulary

LISTS = {
    "COCO": "coco_panoptic",
    "ADE20K": "ade20k_150",
    "Cityscapes": "cityscapes",
    "Pascal VOC": "pascal_voc_20",
    "The generated world": "small_world",
}
EXAMPLES = {"Scene 1": "scene_1.png", "Scene 2": "scene_2.png"}


@functools.cache
def class_lists() -> list[dict[str, Any]]:
    """Return the packaged class lists that the page offers, each with its classes."""
    lists = {name: Vocabulary.packaged(file) for name, file in LISTS.items()}
    return [
        {
            "name": name,
            "classes": [
                {"names": list(names), "is_thing": thing}
                for names, thing in zip(words.names, words.is_thing, strict=True)
            ],
        }
        for name, words in lists.items()
    ]


def example_files() -> dict[str, Path]:
    """Return the files of the example images in the package, by their addresses on the server."""
    folder = shipped("demo") / "images"
    return {f"/page/examples/{file}": folder / file for file in EXAMPLES.values()}


@functools.cache
def examples() -> list[dict[str, str]]:
    """Return the examples of the page: an image of the small world, and the names of its classes.

    The small world is a generated data set.
    """
    words = Vocabulary.packaged("small_world")
    text = "; ".join(", ".join(names) for names in words.names)
    return [
        {"name": name, "image": f"/page/examples/{file}", "vocabulary": text}
        for name, file in EXAMPLES.items()
    ]
