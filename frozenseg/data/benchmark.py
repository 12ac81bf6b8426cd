"""A row of the table of benchmarks: where a data set lies, how it is read, what was published."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

PairsName = Literal["all", "oslsm", "first_1000", "hsnet_1000"]
"""See `frozenseg.data.scored_pairs`."""
ORIGINAL_SIZE = (0, 0)
"""As detectron2 has it: no shorter side is asked for."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One dataset split. Paths are relative to the data root.

    tasks: what its annotation can train and test. reader: the format of its annotation.
    image_names: whose way of naming image files.
    vocabulary: the class list of its names: one of `data/vocabularies`, or a file (`.txt`) below
    the root that comes with the prepared data; "" for the category names as they stand.
    images: folder. annotations: JSON file; not needed by the reader "semantic" if there is a
    vocabulary, whose order is then that of the label ids, else a JSON with `categories` alone.
    labels: folder of panoptic PNGs or label maps. semantic_labels: folder of label maps beside
    panoptic ones; where it is absent they are derived. instances: JSON file for AP, for Cityscapes
    the folder of its label pictures. version: the folder that some archives have around all of
    these three, beside `images`; "" where all archives are alike. ignore: value of unlabelled
    pixels in label maps; background: of those that are labelled, but of no class, -1 where there is
    no such value.
    classes: places in the vocabulary of the classes that are asked for, () for all; what else is
    labelled is background then, and images without any of them are left out. present: JSON file of
    the classes in each label map, which tells these images. pairs: which pairs of image and class
    are scored with oracle presence.
    trained_on: the row whose classes count as seen when this one is tested, "" where
    those of the training do. family: rows whose mean is reported too, "" for none.
    test_size: shorter side and limit of the longer one; or `ORIGINAL_SIZE`. evaluators:
    modules of `frozenseg.evaluation` that score it. prepared_by: the words after `frozenseg` that
    make these files out of the published ones, "" where those are used as they
    are.
    counts: {number of images that a whole copy may have, before classes are selected: whose number
    it is, "" where there is no other}, the usual one first; {} where any will do.
    short_side: published label maps and images were shrunk to this shorter side where larger, and
    so are ours unless asked otherwise; None: nothing was.
    published: {model: {metric: per cent}}, as papers print them.
    """

    tasks: tuple[str, ...]
    reader: Literal["panoptic", "semantic", "instances"]
    vocabulary: str
    images: str
    annotations: str = ""
    labels: str = ""
    semantic_labels: str = ""
    instances: str = ""
    version: str = ""
    image_names: Literal["coco", "cityscapes", "mapillary"] = "coco"
    ignore: int = 255
    background: int = -1
    classes: tuple[int, ...] = ()
    present: str = ""
    pairs: PairsName = "all"
    trained_on: str = ""
    family: str = ""
    test_size: tuple[int, int] = (800, 1333)
    evaluators: tuple[str, ...] = ()
    prepared_by: str = ""
    counts: Mapping[int, str] = field(default_factory=dict)
    short_side: int | None = None
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def targets(self) -> Literal["panoptic", "semantic", "instances"]:
        """The annotation that becomes masks in training."""
        return "semantic" if self.tasks == ("semantic",) else self.reader

    def located(self, root: Path) -> "Benchmark":
        """The row with its annotation where it lies below `root`: with or without `version`."""
        if not self.version or (root / self.annotations).exists():
            return self
        split = Path(self.images).parent
        annotations, labels, semantic_labels = (
            str(split / self.version / Path(path).relative_to(split))
            for path in (self.annotations, self.labels, self.semantic_labels)
        )
        if not (root / annotations).exists():
            return self
        return replace(
            self,
            version="",
            annotations=annotations,
            labels=labels,
            semantic_labels=semantic_labels,
        )

    def training_split(self, *, counts: Mapping[int, str], name: str, of: str) -> "Benchmark":
        """The row of the other split, whose paths say `name` where those of this one say `of`."""
        paths = ("images", "annotations", "labels", "semantic_labels", "instances")
        changed = {path: getattr(self, path).replace(of, name) for path in paths}
        script = f"{self.prepared_by} --split {name}" if self.prepared_by else ""
        return replace(
            self, evaluators=(), published={}, counts=counts, prepared_by=script, **changed
        )

    def without_label_maps(self) -> "Benchmark":
        """The same, its semantic truth derived from the panoptic one."""
        return replace(self, semantic_labels="")
