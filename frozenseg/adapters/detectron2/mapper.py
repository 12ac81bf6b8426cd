"""A dataset mapper for detectron2 that applies our transforms."""

from typing import Any, Literal

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances as HostInstances

from frozenseg.adapters.detectron2.datasets import HostClasses, host_classes, table_row
from frozenseg.build.setting import data_sets
from frozenseg.build.transforms import eval_transform, training_transform
from frozenseg.config import select_config
from frozenseg.data.dataset import SampleIndex, SegmentationDataset
from frozenseg.data.records import Categories, Instances, Record, Segments
from frozenseg.data.transforms import ShortestEdgeResize, Transform
from frozenseg.errors import UserError

NO_CLASSES = HostClasses(Categories((), (), ()), {})
ANNOTATION = ("annotations", "segments_info", "pan_seg_file_name", "sem_seg_file_name")


class FrozenSegMapper:
    """Turns an entry of detectron2's catalog into the input of a meta-architecture.

    The input has `image`, (3, h, w) uint8 RGB, and the `height` and `width` of the image on disk.
    For training it also has `instances` with gt_classes (class ids) and gt_masks (N, h, w) bool,
    and `unpadded_size`, the (height, width) of `image` without padding.

    Random numbers come from numpy's global generator, which detectron2 seeds in each of its
    workers.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        transforms: dict[str, Transform],
        classes: dict[str, HostClasses],
        default: str,
        keep_empty: bool,
    ) -> None:
        """Take the settings that differ between training and test, or between data sets.

        is_train: whether to add targets to the input.
        transforms: by data set.
        classes: by data set; only needed for training.
        default: the data set of entries that do not name theirs (`dataset_name`).
        keep_empty: as in `SegmentationDataset`.
        """
        self.is_train = is_train
        self.keep_empty = keep_empty
        self.transforms = transforms
        self.classes = classes
        self.default = default

    @classmethod
    def from_config(
        cls, cfg: CfgNode, is_train: bool, names: tuple[str, ...] | None = None
    ) -> dict[str, Any]:
        """Return the arguments of the constructor, as detectron2's `configurable` expects them.

        names: the data sets; by default, those of DATASETS.TRAIN or DATASETS.TEST.
        """
        config = select_config(cfg)
        if is_train and config.MODEL.MASK_FORMER.UNNAMED_TARGETS:
            raise UserError(
                "MODEL.MASK_FORMER.UNNAMED_TARGETS: detectron2's instances have classes; leave it "
                "empty, or train with frozenseg train_net"
            )
        names = names or data_sets(config, "TRAIN" if is_train else "TEST")
        transforms: dict[str, Transform] = {}
        for name in names:
            transforms[name] = training_transform(config) if is_train else _resize(config, name)
        return {
            "is_train": is_train,
            "transforms": transforms,
            # They are read here, in the main process, because the workers are forked from it.
            "classes": {name: host_classes(name) for name in names} if is_train else {},
            "default": names[0],
            "keep_empty": config.INPUT.KEEP_EMPTY_OBJECTS,
        }

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return the input for one entry of a data set; with targets for training."""
        name = entry.get("dataset_name", self.default)
        classes = self.classes.get(name, NO_CLASSES)
        bare = {key: value for key, value in entry.items() if key not in ANNOTATION}
        dataset = SegmentationDataset(
            records=[record_of(entry if self.is_train else bare, classes, name)],
            categories=classes.categories,
            transform=self.transforms[name],
            targets=annotation_kind(entry) if self.is_train else None,
            keep_empty=self.keep_empty,
            seed=int(np.random.randint(2**31)),
        )
        sample = dataset[SampleIndex(int(np.random.randint(2**31)), 0)]
        host_input = bare | {
            "dataset_name": name,
            "image": sample.image,
            "height": sample.height,
            "width": sample.width,
        }
        if sample.targets is not None:
            host_input["instances"] = HostInstances(
                (sample.image.shape[1], sample.image.shape[2]),
                gt_classes=sample.targets.class_ids,
                gt_masks=sample.targets.masks,
            )
            host_input["unpadded_size"] = sample.unpadded_size
        return host_input


def _resize(config: CfgNode, name: str) -> ShortestEdgeResize:
    row = table_row(name)
    if row is not None:
        return eval_transform(config, row)
    return ShortestEdgeResize(short=config.INPUT.MIN_SIZE_TEST, long=config.INPUT.MAX_SIZE_TEST)


def annotation_kind(entry: dict[str, Any]) -> Literal["panoptic", "semantic", "instances"]:
    """Return which annotation gives the training masks: panoptic, else instances, else semantic."""
    if "pan_seg_file_name" in entry:
        return "panoptic"
    return "instances" if "annotations" in entry else "semantic"


def record_of(entry: dict[str, Any], classes: HostClasses, name: str) -> Record:
    """Return an entry of detectron2's catalog, from `datasets.load_dicts` or not, as a record."""
    return Record(
        image_id=entry.get("image_id", entry["file_name"]),
        image_path=entry["file_name"],
        height=entry.get("height"),
        width=entry.get("width"),
        num_classes=len(classes.categories),
        panoptic_path=entry.get("pan_seg_file_name"),
        segments=_segments(entry["segments_info"], classes) if "segments_info" in entry else None,
        semantic_path=entry.get("sem_seg_file_name"),
        semantic_ignore=MetadataCatalog.get(name).get("ignore_label", 255),
        instances=_instances(entry["annotations"], classes) if "annotations" in entry else None,
    )


def _segments(infos: list[dict[str, Any]], classes: HostClasses) -> Segments:
    numbers = [(info["category_id"], bool(info.get("isthing", False))) for info in infos]
    return Segments(
        ids=np.array([info["id"] for info in infos], dtype=np.int32),
        class_ids=np.array([classes.class_id(*pair) for pair in numbers], dtype=np.int32),
        is_crowd=np.array([info.get("iscrowd", 0) for info in infos], dtype=bool),
    )


def _instances(rows: list[dict[str, Any]], classes: HostClasses) -> Instances:
    rows = [row for row in rows if row.get("segmentation")]
    class_ids = [classes.class_id(row["category_id"], True) for row in rows]
    return Instances(
        segmentations=[row["segmentation"] for row in rows],
        class_ids=np.array(class_ids, dtype=np.int32),
        is_crowd=np.array([row.get("iscrowd", 0) for row in rows], dtype=bool),
    )


def tensor_masks(masks: Any) -> torch.Tensor:
    """Return gt_masks, from our mapper or from one that makes detectron2's BitMasks, as a tensor
    (N, h, w) bool."""
    return torch.as_tensor(getattr(masks, "tensor", masks)).bool()
