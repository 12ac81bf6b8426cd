"""The result of one image."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageShow

from frozenseg.data.results import png_bytes, write_panoptic_png
from frozenseg.drawing.visualize import draw_segments
from frozenseg.errors import UserError, UserValueError
from frozenseg.files import atomic_path, user_path, write_json
from frozenseg.inference.regions import class_regions, instance_regions
from frozenseg.results.coco import coco_documents
from frozenseg.results.hosts import detectron2_output, supervision_detections, transformers_dict
from frozenseg.results.label_studio import regions_of
from frozenseg.results.outlines import outlines, yolo_text
from frozenseg.results.selection import (
    checked_threshold,
    classes_named,
    has_pixels,
    keep_instances,
    keep_segments,
    segments_as_instances,
)
from frozenseg.results.summary import summary
from frozenseg.structures import InstanceResult, PanopticResult
from frozenseg.text.vocabulary import Source, Vocabulary

Task = Literal["panoptic", "instances"]
"""Which objects a form holds: segments, things and stuff without overlaps, or instances."""


@dataclass(repr=False, eq=False)  # arrays have no single answer to `==`
class SegmentationResult:
    """The result for one image. A task that is switched off is None.

    image: (H, W, 3) uint8 RGB, as read.
    vocabulary: the queried classes, which class ids index.
    panoptic: ids (H, W) and segments, see `frozenseg.structures`.
    semantic: (H, W) class ids, -1 for none.
    instances: masks, boxes, scores and names, see `frozenseg.structures`. None has an empty mask.
    note: a warning that belongs on every picture, e.g. that weights are random; else None.
    file_name: of the image, where it was read from a file; else None.
    seconds: the time that the image took; in a batch or stream, the mean of the images so far.

    Example:
        >>> with frozenseg.load("small", device="cpu") as segmenter:
        ...     result = segmenter("street.png", vocabulary=["car, truck", "road"])
        >>> {segment.name for segment in result.panoptic.segments} <= {"car", "road"}
        True
        >>> cars = result.filter(threshold=0.5, names="truck")
        >>> len(cars) <= len(result)
        True
        >>> cars.save("out").name
        'out'
    """

    image: np.ndarray
    vocabulary: Vocabulary
    panoptic: PanopticResult | None
    semantic: np.ndarray | None
    instances: InstanceResult | None
    note: str | None = None
    file_name: str | None = None
    seconds: float | None = None

    def __len__(self) -> int:
        """Return the number of `regions`."""
        return len(self.regions.segments)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        off = self.panoptic is None and self.semantic is None and self.instances is None
        said = "all results are switched off" if off else self.summary()
        return f"<SegmentationResult {width} x {height}: {said}>"

    @property
    def track_ids(self) -> list[int | None]:
        """The identities of the segments of `regions` over a video, in their order; None of an
        image."""
        return [segment.track_id for segment in self.regions.segments]

    def summary(self) -> str:
        """Say in one line what was found and how long it took, e.g. "2 dogs, 1 sky; 31 ms"."""
        return summary((segment.name for segment in self.regions.segments), self.seconds)

    def draw(self, *, legend: bool | Literal["fixed"] = True, opacity: float = 0.5) -> Image.Image:
        """Draw `regions` over the image.

        legend: whether there is one; "fixed": of a size that depends on the vocabulary alone, as
            the frames of a film need it. opacity: of the colours, 0 to 1.
        """
        found, names = self.regions, self.vocabulary.labels if legend == "fixed" else ()
        return draw_segments(
            self.image, found.ids, found.segments, bool(legend), opacity, self.note, names
        )

    def show(self) -> None:
        """Show `draw` in the viewer of the machine, or in a notebook where there is none.

        Raises `UserError` where there is neither, as on a server.
        """
        if not ImageShow.show(self.draw()):
            raise UserError("nothing here shows pictures; write one by result.draw().save(...)")

    def _repr_png_(self) -> bytes:
        return png_bytes(self.draw())

    def save(self, folder: str | os.PathLike[str], name: str | None = None) -> Path:
        """Write the result into a folder, which is made if need be; return the folder.

        NAME_drawn.png has the drawing and NAME_panoptic.png the ids as in COCO panoptic files.
        NAME_panoptic.json and NAME_instances.json are COCO JSON, see `to_coco`. Files of these
        names are replaced, each as a whole.

        name: NAME; None: that of the image's file without its ending, or "image".
        """
        target = user_path(folder)
        stem = Path(self.file_name or "image").stem if name is None else name
        picture = target / f"{stem}_drawn.png"
        with atomic_path(picture) as temporary:
            self.draw().save(temporary)
        write_panoptic_png(target / f"{stem}_panoptic.png", self.regions.ids)
        for kind, document in coco_documents(self, 1, f"{stem}_panoptic.png").items():
            write_json(target / f"{stem}_{kind}.json", document)
        return target

    @cached_property
    def regions(self) -> PanopticResult:
        """The panoptic result, or what takes its place where it is switched off.

        That is a region for each class that `semantic` has (Fusioner), or else the instances, of
        which the better ones cover the others. Raises `UserError` where all are switched off.
        """
        if self.panoptic is not None:
            return self.panoptic
        if self.semantic is not None:
            return class_regions(self.semantic, self.vocabulary.labels)
        if self.instances is not None:
            return instance_regions(self.instances, self.vocabulary)
        raise UserError("nothing to draw: all results are switched off; switch one on")

    def filter(
        self, *, threshold: float = 0.0, names: Source | None = None
    ) -> "SegmentationResult":
        """Return a copy without what is not wanted.

        What is kept is numbered anew, in its order; in a video it keeps its identity.

        threshold: the least score of segments and instances, 0-1; `semantic` has no scores. A
            segment whose score is NaN, of a model that gives none, is kept.
        names: keep only the classes that have one of these names, in the forms of
            `Vocabulary.parse`; the pixels of others become 0 in panoptic ids and -1 in `semantic`.

        Raises `UserError` for a name that no class has.
        """
        least = checked_threshold(threshold)
        every = range(len(self.vocabulary))
        classes = set(every) if names is None else classes_named(self.vocabulary, names)
        panoptic, semantic, instances = self.panoptic, self.semantic, self.instances
        if panoptic is not None:
            segments = panoptic.segments
            panoptic = keep_segments(
                panoptic, (s for s in segments if not s.score < least and s.class_id in classes)
            )
        if semantic is not None and names is not None:
            semantic = np.where(np.isin(semantic, list(classes)), semantic, -1).astype(np.int32)
        if instances is not None:
            kept = has_pixels(instances) & (instances.scores >= least)
            kept &= np.isin(instances.class_ids, list(classes))
            instances = keep_instances(instances, kept)
        return replace(self, panoptic=panoptic, semantic=semantic, instances=instances)

    def objects(self, task: Task = "panoptic") -> InstanceResult:
        """Return what was found as one list of masks, boxes, scores and names.

        task: "panoptic": `regions`, things and stuff; "instances": `instances`.
        """
        if task == "panoptic":
            return segments_as_instances(self.regions)
        if task != "instances":
            raise UserValueError(f"task {task!r}: must be 'panoptic' or 'instances'")
        if self.instances is None:
            raise UserError("instances are switched off in this model; take task='panoptic'")
        return self.instances

    def polygons(self, task: Task = "panoptic") -> list[list[np.ndarray]]:
        """Return the outlines of each of `objects`, as `outlines` makes them: arrays (M, 2)."""
        return [outlines(mask) for mask in self.objects(task).masks]

    def to_yolo(self, task: Task = "panoptic") -> str:
        """Return the text of a label file of YOLO's segmentation sets, see `yolo_text`."""
        return yolo_text(self.objects(task))

    def to_coco(self, image_id: int = 1) -> dict[str, dict[str, Any]]:
        """Return {"panoptic": document, "instances": document}, each a COCO file of this image.

        Masks of instances are compressed RLE as text. Category ids are class ids plus 1. The
        panoptic document names its PNG, which `save` writes.
        """
        stem = Path(self.file_name or "image").stem
        return coco_documents(self, image_id, f"{stem}_panoptic.png")

    def to_dict(self) -> dict[str, Any]:
        """Return the form of Transformers' `post_process_panoptic_segmentation`.

        "segmentation": (H, W) int32 tensor of ids, 0 for none. "segments_info": a list of "id",
        "label_id" (the class id), "was_fused" (whether it is stuff) and "score", which is None
        for regions of a semantic result.
        """
        return transformers_dict(self.regions)

    def to_supervision(self, task: Task = "panoptic") -> Any:
        """Return `supervision.Detections` of `objects`; needs the package supervision."""
        return supervision_detections(self.objects(task))

    def to_detectron2(self) -> dict[str, Any]:
        """Return "panoptic_seg" and "instances" as a model of detectron2 gives them.

        Their class numbers are class ids, for things and stuff alike. "instances" needs detectron2.
        """
        height, width = self.image.shape[:2]
        return detectron2_output(self.panoptic, self.instances, (height, width))

    def to_label_studio(
        self,
        task: Task = "panoptic",
        *,
        kind: Literal["brush", "polygon"] = "brush",
        from_name: str = "label",
        to_name: str = "image",
    ) -> dict[str, Any]:
        """Return a prediction that Label Studio imports beside a task's "data".

        kind: "brush" for `<BrushLabels>`, exact masks, or "polygon" for `<PolygonLabels>`.
        from_name, to_name: the names of the labels and of the image in the labelling interface,
            whose labels have the first names of the classes.
        """
        if kind not in ("brush", "polygon"):
            raise UserValueError(f"kind {kind!r}: must be 'brush' or 'polygon'")
        regions = regions_of(
            self.objects(task), brush=kind == "brush", from_name=from_name, to_name=to_name
        )
        return {"model_version": "frozenseg", "result": regions}
