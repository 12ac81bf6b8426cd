"""`frozenseg score`: what its arguments name, and what it is given to score."""

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.edits import REMOVED, edited, inside, text_of
from tests.faults.table import Case, both, copied

INSTANCES = "score instances --gt {gt} --pred {pred}"
LVIS = "score lvis --gt {gt} --pred {pred}"
SEMANTIC = "score semantic --gt-dir {gt} --pred-dir {pred} --classes world/classes.json"
RECALL = (
    "score recall --images {images} --gt-dir {gt} --proposals {proposals} --seen world/classes.json"
)
PLACES = {"gt": "world/instances.json", "pred": "world/results.json"}
LABELS = {"gt": "world/labels", "pred": "world/predicted", "images": "world/instances.json",
          "proposals": "world/proposals.json"}  # fmt: skip


def _truth(name: str, text: str, words: str) -> list[Case]:
    """A ground truth of this text, scored by both metrics."""
    make = both(copied("instances.json"), text_of("instances.json", lambda _: text))
    places = {**PLACES, "gt": "instances.json"}
    return [
        Case(f"instances-gt_{name}", INSTANCES.format(**places), 2, words, make, fast=True),
        Case(f"lvis-gt_{name}", LVIS.format(**places), 2, words, make),
    ]


def _named(world, folder):  # type: ignore[no-untyped-def]
    (folder / "text.json").write_text(json.dumps("world/instances.json"))


def _results(name: str, words: str, *path: object, to: object) -> list[Case]:
    make = edited("results.json", *path, to=to)
    places = {**PLACES, "pred": "results.json"}
    return [
        Case(f"{task}-pred_{name}", command.format(**places), 2, words, make, fast=task != "lvis")
        for task, command in (("instances", INSTANCES), ("lvis", LVIS))
    ]


def _images_named(name: str, value: object) -> Case:
    make = edited("instances.json", "images", 0, "file_name", to=value)
    command = RECALL.format(**{**LABELS, "images": "instances.json"})
    return Case(f"recall-images_{name}", command, 2, "'file_name' is", make, fast=True)


def _two_of_one_stem(folder: Path) -> None:
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(folder / "1.tif")


def _hidden(folder: Path) -> None:
    """What a killed run has left: no label map."""
    (folder / ".1.abcdefgh.png").write_bytes((folder / "1.png").read_bytes())


def _fifo(folder: Path) -> None:
    (folder / "1.png").unlink()
    os.mkfifo(folder / "1.png")


def _float_map(folder: Path) -> None:
    (folder / "1.png").unlink()
    Image.fromarray(np.full((60, 80), 0.5, np.float32)).save(folder / "1.tif")


def _million(world, folder):  # type: ignore[no-untyped-def]
    content = json.loads((world / "instances.json").read_text())
    content["categories"] += [{"id": i, "name": f"c{i}"} for i in range(10, 10**6)]
    (folder / "instances.json").write_text(json.dumps(content))


DEEP = "[" * 20_000
CASES = [
    Case("instances-gt_text_naming_a_file", INSTANCES.format(**{**PLACES, "gt": "text.json"}), 2,
         "has no list", _named, fast=True),
    Case("lvis-gt_text_naming_a_file", LVIS.format(**{**PLACES, "gt": "text.json"}), 2,
         "has no list", _named),
    *_truth("0", "0", "has no list"),
    *_truth("1", "1", "has no list"),
    *_truth("true", "true", "has no list"),
    *_truth("null", "null", "has no list"),
    *_truth("list", "[]", "has no list"),
    *_truth("number", "0.5", "has no list"),
    *_truth("deep", DEEP, "nested too deeply"),
    *_truth("cut", '{"images": [', "not valid JSON"),
    Case("instances-pred_deep", INSTANCES.format(**{**PLACES, "pred": "results.json"}), 2,
         "nested too deeply", text_of("results.json", lambda _: DEEP), fast=True),
    *_results("score_1e400", "score", 0, "score", to=10**400),
    *_results("score_nan", "score", 0, "score", to=float("nan")),
    *_results("score_text", "score", 0, "score", to="0.9"),
    *_results("score_true", "score", 0, "score", to=True),
    *_results("score_missing", "score", 0, "score", to=REMOVED),
    *_results("category_7.9", "category_id", 0, "category_id", to=7.9),
    *_results("category_unknown", "99", 0, "category_id", to=99),
    *_results("image_unknown", "99", 0, "image_id", to=99),
    *_results("image_list", "image_id", 0, "image_id", to=[1]),
    *_results("polygon", "RLE|segmentation", 0, "segmentation", to=[[5, 5, 25, 5, 25, 20]]),
    *_results("runs_text", "segmentation|counts|run", 0, "segmentation",
              to={"size": [60, 80], "counts": ["5", "4795"]}),
    *_results("runs_cut", "segmentation|counts|run|end", 0, "segmentation",
              to={"size": [60, 80], "counts": "0"}),
    _images_named("empty", ""),
    _images_named("dot", "."),
    _images_named("long", "a" * 6000),
    _images_named("nul", "a\0b"),
    _images_named("number", 5),
    Case("recall-images_outside", RECALL.format(**{**LABELS, "images": "instances.json"}), 2,
         "instances.json|labels", edited("instances.json", "images", 0, "file_name",
                                         to="../../../../etc/passwd.png")),
    *(Case(f"{task}-{name}", command.format(**{**LABELS, "gt": "labels"}), status, words,
           inside("labels", change), fast=task == "semantic")
      for name, change, status, words in (
          ("two_of_one_stem", _two_of_one_stem, 2, r"1\.(png|tif).*1\.(png|tif)"),
          ("fifo", _fifo, 2, r"1\.png"),
          ("hidden_file", _hidden, 0, "mIoU|AR|recall|IoU"),
          ("float_labels", _float_map, 2, r"1\.tif"),
          ("no_files", lambda folder: [path.unlink() for path in folder.iterdir()], 2, "labels"),
      )
      for task, command in (("semantic", SEMANTIC), ("recall", RECALL))),
    Case("semantic-json_into_proc", SEMANTIC.format(**LABELS) + " --json /proc/x.json", 2,
         "cannot be written", fast=True),
    Case("semantic-json_long", SEMANTIC.format(**LABELS) + f" --json {'j' * 300}.json", 2,
         "cannot be written.*shorter name", fast=True),
    Case("semantic-json_below_a_file", SEMANTIC.format(**LABELS) + " --json world/tiny.yaml/x.json",
         2, "cannot be written"),
    Case("semantic-names_surrogate", SEMANTIC.format(**LABELS).replace("world/c", "c"), 2,
         "half a character", edited("classes.json", "names", 0, to="a\ud800b"), fast=True),
    Case("semantic-names_numbers", SEMANTIC.format(**LABELS).replace("world/c", "c"), 2, "name",
         edited("classes.json", "names", 0, to=5)),
    Case("semantic-names_escape", SEMANTIC.format(**LABELS).replace("world/c", "c"), (0, 2),
         r"^[^\x1b]*$", edited("classes.json", "names", 0, to="a\x1b[31mb\nc")),
    Case("instances-million_categories", INSTANCES.format(**{**PLACES, "gt": "instances.json"}),
         (0, 2), "", _million, seconds=120),
]  # fmt: skip
