"""A row of the table of benchmarks: where a data set lies, how it is read, what was published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from frozenseg.errors import UserError
from frozenseg.text.vocabulary import Vocabulary

PairsName = Literal["all", "oslsm", "first_1000", "hsnet_1000"]
"""See `frozenseg.data.benchmarks.scored_pairs`."""
Reader = Literal["panoptic", "semantic", "instances", "polygons", "images"]
ORIGINAL_SIZE = (0, 0)
"""The test size that keeps images as they are; as in detectron2, its shorter side is 0."""
COUNTED_FROM_ONE = ("ade20k_150",)
"""Class lists whose evaluation server counts the classes from 1; label 0 is no class."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One dataset split. Paths are relative to the data root; "" stands for "none".

    tasks: the tasks that its annotation can train and test.
    reader: the format of its annotation: COCO panoptic, label maps, COCO instances, or ultralytics'
        text files of polygons; "images": there is no annotation.
    vocabulary: the class list: a name of `data/vocabularies`, or a `.txt` file below the root that
        the preparation makes; "": the category names of the annotation.
    class_list: the class list itself, which a user's own data set has in place of `vocabulary`.
    things: names of the classes that are things; None: as the annotation or the class list says.
    images: folder of the images.
    image_sources: for the reader "polygons": folders of images, and text files that list images,
        all below `images`.
    annotations: JSON file. The reader "semantic" needs none if there is a vocabulary, whose order
        is then that of the label ids; otherwise the JSON needs only `categories`.
    labels: folder of panoptic PNGs or of label maps.
    semantic_labels: folder of label maps beside panoptic PNGs; if it is absent, they are derived
        from the PNGs.
    instances: JSON file for AP; for Cityscapes the folder of its `instanceIds` PNGs.
    version: folder inside which some archives hold annotations, labels and semantic_labels.
    image_names: the dataset whose convention for naming image files is followed.
    ignore: the value of unlabelled pixels in label maps.
    background: the value of pixels that are labelled as none of the classes; -1: there is none.
    classes: indices into the vocabulary of the classes that are scored; (): all. Other labelled
        pixels become background, and images that hold none of the classes are left out.
    present: JSON file of the classes in each label map, which shows the images that hold none.
    pairs: the pairs of image and class that are scored with oracle presence.
    trained_on: the row whose classes count as seen in this test; "": the classes of the training.
    family: the group of rows whose mean is reported too.
    test_size: shorter side and limit of the longer side in pixels; or `ORIGINAL_SIZE`.
    evaluators: the evaluations of this row: its tasks, "lvis", "cityscapes", "oracle" and others.
    prepared_by: arguments of `frozenseg prepare_dataset`, which makes these files out of the
        published ones; "": the published files are used as they are.
    counts: {number of images in a complete copy, before classes are selected: who publishes that
        number, "" if everybody does}, the usual number first; {}: any number is accepted.
    short_side: the published preparation shrinks larger images to this shorter side in pixels, and
        so does ours unless the user asks for the full size; None: nothing is shrunk.
    published: {model: {metric: per cent}}, as printed in papers.
    """

    images: str
    tasks: tuple[str, ...] = ("semantic",)
    reader: Reader = "semantic"
    vocabulary: str = ""
    class_list: Vocabulary | None = None
    things: tuple[str, ...] | None = None
    image_sources: tuple[str, ...] = ()
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
        if self.reader == "images":
            raise UserError(f"{self.images}: images without annotation cannot be trained on")
        if self.tasks == ("semantic",):
            return "semantic"
        return "instances" if self.reader == "polygons" else self.reader

    @property
    def own_list(self) -> str:
        """The file of the class list, which lies below the root; "" if there is none."""
        return self.vocabulary if self.vocabulary.endswith(".txt") else ""

    @property
    def truth(self) -> str:
        """The file or folder of the annotation, for messages."""
        return self.annotations or self.labels or self.images

    @property
    def derives_objects(self) -> bool:
        """Whether the ground truth of AP is derived from the records, without an instance JSON."""
        return not self.instances and self.reader in ("panoptic", "polygons")

    def kept_labels(self, dataset_ids: Sequence[int]) -> tuple[list[int], int]:
        """Return the label of each class in predicted label maps, and the label for no class.

        The labels are those that the evaluation server, or others who read the maps, expect.
        dataset_ids: the category ids.
        """
        if self.image_names == "cityscapes":
            return [*dataset_ids], 0
        if self.reader == "images" and self.annotations:  # the labels are the ids of the JSON
            if max(dataset_ids) >= 2**16:
                raise UserError(
                    f"{self.annotations}: category id {max(dataset_ids)} does not fit into label "
                    "maps of 16 bits; renumber the categories"
                )
            values = (0, 255, *range(2**16 - 1, 0, -1))
            return [*dataset_ids], next(value for value in values if value not in dataset_ids)
        count = len(dataset_ids)
        if self.vocabulary in COUNTED_FROM_ONE:
            return [*range(1, count + 1)], 0
        return [*range(count)], 255 if count <= 255 else 65535

    def located(self, root: Path) -> "Benchmark":
        """Return the row with the paths that exist below `root`: inside `version` or without it."""
        if not self.version or (root / self.annotations).exists():
            return self
        split = Path(self.images).parent
        names = ("annotations", "labels", "semantic_labels")
        paths: dict[str, Any] = {
            name: str(split / self.version / Path(getattr(self, name)).relative_to(split))
            for name in names
        }
        return (
            replace(self, version="", **paths) if (root / paths["annotations"]).exists() else self
        )

    def training_set(self, split: str, counts: Mapping[int, str]) -> "Benchmark":
        """Return the row of the training set that belongs to this validation set.

        split: the split of its preparation.
        """
        names = ("images", "annotations", "labels", "semantic_labels", "instances")
        paths: dict[str, Any] = {
            name: getattr(self, name).replace("validation", "training").replace("val", "train")
            for name in names
        }
        script = self.prepared_by and f"{self.prepared_by} --split {split}"
        return replace(
            self, evaluators=(), published={}, counts=counts, prepared_by=script, **paths
        )
