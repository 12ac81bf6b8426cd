"""The result of one image."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageShow

from frozenseg.data.image_files import image_suffixes
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
"""Which objects an output format holds: "panoptic" has the segments of things and stuff, which do
not overlap; "instances" has the instances."""


@dataclass(repr=False, eq=False)  # `==` of two arrays is an array, not one truth value
class SegmentationResult:
    """The result for one image. The result of a task that is switched off is None.

    image: (H, W, 3) uint8 RGB, as read.
    vocabulary: the queried classes; class ids are indices into it.
    panoptic: ids (H, W) and segments, see `frozenseg.structures`.
    semantic: (H, W) class ids, -1 for pixels without a class.
    instances: masks, boxes, scores and names, see `frozenseg.structures`. No mask is empty.
    note: a warning that every drawing must show, e.g. that the weights are random; else None.
    file_name: the file that the image was read from. A frame of a video, or an image of several
        that was not read from a file, has a name with its number, e.g. "street_000001"; a single
        image that was not read from a file has None.
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
        text = "all results are switched off" if off else self.summary()
        return f"<SegmentationResult {width} x {height}: {text}>"

    @property
    def track_ids(self) -> list[int | None]:
        """The video identity of each segment of `regions`, in the same order; each is None for the
        segments of a single image."""
        return [segment.track_id for segment in self.regions.segments]

    def summary(self) -> str:
        """Return one line with what was found and how long it took, "2 dogs, 1 sky; 31 ms"."""
        return summary((segment.name for segment in self.regions.segments), self.seconds)

    def draw(self, *, legend: bool | Literal["fixed"] = True, opacity: float = 0.5) -> Image.Image:
        """Draw `regions` over the image.

        legend: whether to add a legend. With "fixed" its size depends only on the vocabulary, so
            that all frames of a video have the same size.
        opacity: the opacity of the colours, 0 to 1.
        """
        found, names = self.regions, self.vocabulary.labels if legend == "fixed" else ()
        return draw_segments(
            self.image, found.ids, found.segments, bool(legend), opacity, self.note, names
        )

    def show(self) -> None:
        """Show the picture of `draw` in the system's image viewer, or else in a notebook.

        Raises `UserError` where there is neither, for example on a server.
        """
        if not ImageShow.show(self.draw()):
            raise UserError("no image viewer was found; write a file with result.draw().save(...)")

    def _repr_png_(self) -> bytes:
        return png_bytes(self.draw())

    def save(self, folder: str | os.PathLike[str], name: str | None = None) -> Path:
        """Write the result into a folder, which is created if necessary; return the folder.

        NAME_drawn.png has the drawing and NAME_panoptic.png the ids as in COCO panoptic files.
        NAME_panoptic.json and NAME_instances.json are COCO JSON, see `to_coco`. Existing files with
        these names are replaced, each one atomically.

        name: NAME; None: `file_name` without its folder and suffix, or "image".
        """
        target = user_path(folder)
        stem = self._stem if name is None else name
        if "\0" in stem:
            raise UserValueError(f"name {stem!r}: has a null character; remove it")
        picture = target / f"{stem}_drawn.png"
        with atomic_path(picture) as temporary:
            self.draw().save(temporary)
        write_panoptic_png(target / f"{stem}_panoptic.png", self.regions.ids)
        for kind, document in coco_documents(self, 1, f"{stem}_panoptic.png").items():
            write_json(target / f"{stem}_{kind}.json", document)
        return target

    @cached_property
    def regions(self) -> PanopticResult:
        """The panoptic result, or a substitute if it is switched off.

        The substitute has one region for each class that occurs in `semantic` (Fusioner), or else
        the instances, where those with higher scores cover the others. Raises `UserError` if all
        results are switched off.
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
        """Return a copy with only some of the segments, classes and instances.

        The segments that remain are numbered from 1 again, in the same order; in a video they keep
        their numbers, which are their identities.

        threshold: the lowest score of segments and instances that are kept, 0-1; `semantic` has no
            scores. A segment whose score is NaN (its model gives no scores) is kept.
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
        """Return the objects that were found, as N masks, boxes, scores and names.

        task: "panoptic" for the things and stuff of `regions`, or "instances" for `instances`.
        """
        if task == "panoptic":
            return segments_as_instances(self.regions)
        if task != "instances":
            raise UserValueError(f"task {task!r}: must be 'panoptic' or 'instances'")
        if self.instances is None:
            raise UserError("instances are switched off in this model; use task='panoptic'")
        return self.instances

    def polygons(self, task: Task = "panoptic") -> list[list[np.ndarray]]:
        """Return for each of `objects` its polygons, arrays (M, 2) as made by `outlines`."""
        return [outlines(mask) for mask in self.objects(task).masks]

    def to_yolo(self, task: Task = "panoptic") -> str:
        """Return the text of a label file in YOLO's segmentation format, see `yolo_text`."""
        return yolo_text(self.objects(task))

    def to_coco(self, image_id: int = 1) -> dict[str, dict[str, Any]]:
        """Return {"panoptic": document, "instances": document}, each a COCO file of this image.

        The masks of instances are compressed RLE, as text. Category ids are class ids plus 1. The
        panoptic document names its PNG file, which `save` writes.
        """
        return coco_documents(self, image_id, f"{self._stem}_panoptic.png")

    @property
    def _stem(self) -> str:
        """The name of the image without its folder and suffix."""
        path = Path(self.file_name or "image")
        # The name of a frame has no suffix, but it may have a dot, as in "cam.2024_000001".
        return path.stem if path.suffix.lower() in image_suffixes() else path.name

    def to_dict(self) -> dict[str, Any]:
        """Return the result in the format of Transformers' `post_process_panoptic_segmentation`.

        "segmentation" is an (H, W) int32 tensor of ids, 0 for no segment. "segments_info" is a list
        of dicts with "id", "label_id" (the class id), "was_fused" (whether the segment is stuff)
        and "score", which is None for regions of a semantic result.
        """
        return transformers_dict(self.regions)

    def to_supervision(self, task: Task = "panoptic") -> Any:
        """Return `objects` as `supervision.Detections`; needs the package supervision."""
        return supervision_detections(self.objects(task))

    def to_detectron2(self) -> dict[str, Any]:
        """Return "panoptic_seg" and "instances" in the format of detectron2's models.

        Their class numbers are class ids, both for things and for stuff. "instances" needs the
        package detectron2.
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
        """Return a prediction that Label Studio imports together with a task's "data".

        kind: "brush" for exact masks (`<BrushLabels>`), or "polygon" for `<PolygonLabels>`.
        from_name, to_name: the names of the labels and of the image in the labelling interface.
            Its labels must be the first names of the classes.
        """
        if kind not in ("brush", "polygon"):
            raise UserValueError(f"kind {kind!r}: must be 'brush' or 'polygon'")
        regions = regions_of(
            self.objects(task), brush=kind == "brush", from_name=from_name, to_name=to_name
        )
        return {"model_version": "frozenseg", "result": regions}
