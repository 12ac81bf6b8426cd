"""Write predictions to disk, in the formats that the benchmarks' test servers accept.

Each class is a `Task` without scores: all threads and processes call `update`, and the first
process calls `finish` at the end.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frozenseg.data.records import Categories, Record
from frozenseg.data.results import write_panoptic_png
from frozenseg.data.rle import encode_masks
from frozenseg.evaluation.cityscapes import write_detections
from frozenseg.evaluation.metric import Metric, Scores, State
from frozenseg.evaluation.tasks import Summary
from frozenseg.files import atomic_path, write_json, writing
from frozenseg.structures import Prediction


class KeptRows(Metric):
    """Keeps JSON rows by image, which are gathered from all processes but give no scores."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Remove all rows."""
        self._rows: dict[int | str, list[dict[str, Any]]] = {}

    def add(self, image_id: int | str, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of an image."""
        self._rows[image_id] = rows

    def compute(self) -> Scores:
        """Return no scores."""
        return {}

    def state(self) -> State:
        """Return the rows of each image."""
        return {"rows": [[image_id, rows] for image_id, rows in self._rows.items()]}

    def add_state(self, state: State) -> None:
        """Add the images of another process."""
        self._rows.update(dict(state["rows"]))

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows, in the order of the image ids."""
        return [row for image_id in sorted(self._rows) for row in self._rows[image_id]]


class KeptFiles(ABC):
    """The files of one task of a data set.

    folder: where the files are written. stems: {image id: the name of its files, without suffix}.
    """

    names: tuple[str, ...] = ()

    def __init__(self, folder: Path, stems: Mapping[int | str, str]) -> None:
        self.folder, self.stems = folder, stems
        self.metric = KeptRows()

    def summary(self, scores: Scores) -> Summary:
        """Return no scores."""
        return {}

    @abstractmethod
    def update(self, record: Record, result: Prediction) -> None:
        """Write the files of an image, and keep its rows of the JSON file of all images."""

    def finish(self) -> None:
        """Write the JSON file of all images, if the format has one."""
        return


class PanopticFiles(KeptFiles):
    """The COCO panoptic format, which Cityscapes, Mapillary and others accept too: panoptic.json,
    and in panoptic/ a PNG of segment ids for each image."""

    def __init__(
        self, folder: Path, stems: Mapping[int | str, str], categories: Categories
    ) -> None:
        super().__init__(folder, stems)
        self.categories = categories

    def update(self, record: Record, result: Prediction) -> None:
        """Write the PNG of an image, and keep its annotation."""
        assert result.panoptic is not None, "the post-processor makes it"
        name = f"{self.stems[record.image_id]}.png"
        write_panoptic_png(self.folder / "panoptic" / name, result.panoptic.ids)
        height, width = result.panoptic.ids.shape
        infos = [
            {
                "id": int(segment.id),
                "category_id": self.categories.dataset_ids[segment.class_id],
                "area": int(segment.area),
                "bbox": _corner_and_size(segment.box),
                "iscrowd": 0,
            }
            for segment in result.panoptic.segments
        ]
        image = {
            "id": record.image_id,
            "file_name": Path(record.image_path).name,
            "height": height,
            "width": width,
        }
        annotation = {"image_id": record.image_id, "file_name": name, "segments_info": infos}
        self.metric.add(record.image_id, [{"image": image, "annotation": annotation}])

    def finish(self) -> None:
        """Write panoptic.json."""
        rows, about = self.metric.rows(), self.categories
        write_json(
            self.folder / "panoptic.json",
            {
                "images": [row["image"] for row in rows],
                "annotations": [row["annotation"] for row in rows],
                "categories": [
                    {"id": number, "name": name, "isthing": int(thing)}
                    for number, name, thing in zip(
                        about.dataset_ids, about.names, about.is_thing, strict=True
                    )
                ],
            },
        )


class InstanceFiles(KeptFiles):
    """COCO's list of results with masks in RLE, which LVIS accepts too.

    It has all detections that are scored, in the order of their scores, also those with an empty
    mask. name: the name of the file.
    """

    def __init__(
        self, folder: Path, stems: Mapping[int | str, str], categories: Categories, name: str
    ) -> None:
        super().__init__(folder, stems)
        self.categories, self.name = categories, name

    def update(self, record: Record, result: Prediction) -> None:
        """Keep the detections of an image, with encoded masks."""
        found = result.instances
        assert found is not None, "the post-processor makes it"
        rows = zip(
            encode_masks(found.masks) if len(found.masks) else [],
            found.boxes.tolist(),
            found.scores.tolist(),
            found.class_ids.tolist(),
            strict=True,
        )
        self.metric.add(
            record.image_id,
            [
                {
                    "image_id": record.image_id,
                    "category_id": self.categories.dataset_ids[class_id],
                    "bbox": _corner_and_size(box),
                    "segmentation": code,
                    "score": score,
                }
                for code, box, score, class_id in rows
            ],
        )

    def finish(self) -> None:
        """Write the list of results."""
        write_json(self.folder / self.name, self.metric.rows())


class CityscapesInstanceFiles(KeptFiles):
    """The format of Cityscapes' test server for instances: a text file for each image and a PNG for
    each mask, both in instances/."""

    def __init__(
        self, folder: Path, stems: Mapping[int | str, str], categories: Categories
    ) -> None:
        super().__init__(folder, stems)
        self.categories = categories

    def update(self, record: Record, result: Prediction) -> None:
        """Write the files of an image."""
        found = result.instances
        assert found is not None, "the post-processor makes it"
        stem = self.stems[record.image_id]
        path = self.folder / "instances" / f"{stem}_pred.txt"
        ids = [self.categories.dataset_ids[class_id] for class_id in found.class_ids.tolist()]
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_detections(path, stem, found.masks, ids, found.scores.tolist())


class LabelFiles(KeptFiles):
    """A PNG of labels for each image, in semantic/.

    labels: the label of each class in these files. none: the value of pixels without a class.
    """

    def __init__(
        self, folder: Path, stems: Mapping[int | str, str], *, labels: Sequence[int], none: int
    ) -> None:
        super().__init__(folder, stems)
        values = np.array([*labels, none])  # as an index, class id -1 selects the last: `none`
        self.values = values.astype(np.uint8 if values.max() < 256 else np.uint16)

    def update(self, record: Record, result: Prediction) -> None:
        """Write the PNG."""
        assert result.semantic is not None, "the post-processor makes it"
        path = self.folder / "semantic" / f"{self.stems[record.image_id]}.png"
        with atomic_path(path) as temporary:
            Image.fromarray(self.values[result.semantic]).save(temporary)


def file_stems(records: Sequence[Record]) -> dict[int | str, str]:
    """Return {image id: the name of its file without folder and suffix}; all names begin with a
    number if two of them are the same."""
    stems = [Path(record.image_path).stem for record in records]
    if len(set(stems)) < len(stems):
        stems = [f"{number:06d}_{stem}" for number, stem in enumerate(stems)]
    return {record.image_id: stem for record, stem in zip(records, stems, strict=True)}


def _corner_and_size(box: Sequence[Any]) -> list[float]:
    x0, y0, x1, y1 = map(float, box)
    return [x0, y0, x1 - x0, y1 - y0]
