"""Instance AP on Cityscapes, computed by the scripts of Cityscapes (an optional extra)."""

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from frozenseg.data.label_maps import image_size
from frozenseg.data.rle import decode_masks
from frozenseg.errors import UserError
from frozenseg.evaluation.instance import DetectionMetric
from frozenseg.evaluation.metric import Scores


class CityscapesAP(DetectionMetric):
    """AP and AP50, and the AP of each label id, as fractions; NaN for a class in no image.

    The category ids of `update` are the label ids of Cityscapes (24 person, 26 car, ...).

    ground_truth: {image id: path of its "..._gtFine_instanceIds.png"}.
    """

    keys = ("AP", "AP50")

    def __init__(self, *, ground_truth: Mapping[Any, str | os.PathLike[str]]) -> None:
        self._scripts = _cityscapes_scripts()
        self.ground_truth = {name: Path(path).absolute() for name, path in ground_truth.items()}
        arguments = copy.copy(self._scripts.args)
        self._scripts.setInstanceLabels(arguments)
        super().__init__(
            sizes={name: image_size(path) for name, path in self.ground_truth.items()},
            category_ids=[self._scripts.name2label[name].id for name in arguments.instLabels],
            kind="segm",
        )

    def compute(self) -> Scores:
        """Return AP, AP50 and {label id: AP} as "per_class".

        The scripts of Cityscapes read files, so the detections are first written to a temporary
        folder.
        """
        truths = [str(path) for path in self.ground_truth.values()]
        with tempfile.TemporaryDirectory() as folder, _numpy_with_in1d():
            arguments = copy.copy(self._scripts.args)
            arguments.quiet = True
            arguments.predictionPath = os.path.realpath(folder)
            arguments.gtInstancesFile = os.path.join(folder, "truth.json")
            self._scripts.setInstanceLabels(arguments)
            lists = [
                self._write(name, Path(arguments.predictionPath) / f"{i}.txt")
                for i, name in enumerate(self.ground_truth)
            ]
            instances = self._scripts.getGtInstances(truths, arguments)
            matches = self._scripts.matchGtWithPreds(lists, truths, instances, arguments)
            found = self._scripts.evaluateMatches(matches, arguments)
            averages = self._scripts.computeAverages(found, arguments)
        return {
            "AP": float(averages["allAp"]),
            "AP50": float(averages["allAp50%"]),
            "per_class": {
                str(self._scripts.name2label[name].id): float(scores["ap"])
                for name, scores in averages["classes"].items()
            },
        }

    def _write(self, name: str, path: Path) -> str:
        found = self._detections.get(name, [])
        write_detections(
            path,
            path.stem,
            (decode_masks([row["segmentation"]], self.sizes[name])[0] for row in found),
            [row["category_id"] for row in found],
            [row["score"] for row in found],
        )
        return str(path)


def write_detections(
    path: Path,
    stem: str,
    masks: Iterable[np.ndarray],
    label_ids: Sequence[int],
    scores: Sequence[float],
) -> None:
    """Write the detections of an image in the format of Cityscapes' test server and scripts.

    Each mask (H, W) bool is written as a PNG, "STEM_NUMBER.png", beside the text file `path`, each
    line of which has the name of a PNG, a label id and a score.
    """
    rows = []
    for i, (mask, label_id, score) in enumerate(zip(masks, label_ids, scores, strict=True)):
        picture = path.with_name(f"{stem}_{i}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(picture)
        rows.append(f"{picture.name} {label_id} {score!r}\n")
    path.write_text("".join(rows), encoding="utf-8")


@contextlib.contextmanager
def _numpy_with_in1d() -> Iterator[None]:
    """Provide `np.in1d`, which NumPy 2.4 has removed and version 2.3.0 of the scripts calls."""
    added = not hasattr(np, "in1d")
    if added:
        setattr(np, "in1d", np.isin)  # noqa: B010 (type checkers know no such attribute)
    try:
        yield
    finally:
        if added:
            delattr(np, "in1d")


def _cityscapes_scripts() -> ModuleType | Any:
    try:
        from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling
    except ModuleNotFoundError as error:
        raise UserError(
            f"Cityscapes instance AP needs {error.name}: pip install 'frozenseg[cityscapes]'"
        ) from None
    return evalInstanceLevelSemanticLabeling
