"""Make up an image, its annotation and its vocabulary: only their sizes matter for measurements."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from PIL import Image

from frozenseg.build.models import build_model
from frozenseg.data.dataset import Sample
from frozenseg.data.records import Categories, Record, Segments
from frozenseg.data.results import write_panoptic_png
from frozenseg.data.rle import encode_masks
from frozenseg.evaluation import tasks
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.models.base import SegmentationModel
from frozenseg.structures import Targets, TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary

OBJECTS = 12  # per image; COCO panoptic has 11 on average


def random_model(cfg: CfgNode, device: torch.device) -> SegmentationModel:
    """Build the model directly on its device, where random weights are generated fastest."""
    with device:
        model = build_model(cfg)
    return model.to(device)  # some buffers of segment-anything are on the CPU nevertheless


@dataclass(frozen=True)
class Setting:
    """The sizes of a measurement.

    size: (height, width) of the image in pixels; the network sees it at this size.
    classes: number of classes.
    names: total number of names of all classes.
    """

    size: tuple[int, int]
    classes: int
    names: int

    def vocabulary(self) -> Vocabulary:
        """Make a vocabulary in which every other class is a thing."""
        index = self._class_index()
        return Vocabulary(
            tuple(
                tuple(f"name {n}" for n in np.flatnonzero(index == k)) for k in range(self.classes)
            ),
            tuple(k % 2 == 0 for k in range(self.classes)),
        )

    def text(self, dim: int) -> TextEmbeddings:
        """Make random unit vectors (names, dim); every third class is seen."""
        generator = torch.Generator().manual_seed(0)
        return TextEmbeddings(
            weight=F.normalize(torch.randn(self.names, dim, generator=generator), dim=-1),
            class_index=torch.from_numpy(self._class_index()),
            seen=torch.arange(self.classes) % 3 == 0,
        )

    def write_image(self, folder: Path) -> Path:
        """Write a JPEG of a smooth image with some noise, similar to a photograph."""
        rng = np.random.default_rng(0)
        small = Image.fromarray(rng.integers(0, 256, (12, 18, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize(self.size[::-1], Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)
        path = folder / "image.jpg"
        Image.fromarray(noisy).save(path, quality=90)
        return path

    def write_truth(self, folder: Path, image: Path) -> tuple[Record, dict[str, tasks.Task]]:
        """Write the annotation of the image and make the tasks that score against it."""
        masks = rectangles(self.size, torch.Generator().manual_seed(0)).numpy()
        ids = np.zeros(self.size, dtype=np.int32)
        for number, mask in enumerate(masks, start=1):
            ids[mask] = number
        left = np.unique(ids[ids > 0])
        class_ids = (left - 1) % self.classes
        write_panoptic_png(folder / "truth.png", ids)
        record = Record(
            image_id=1,
            image_path=str(image),
            height=self.size[0],
            width=self.size[1],
            num_classes=self.classes,
            panoptic_path=str(folder / "truth.png"),
            segments=Segments(left, class_ids.astype(np.int32), np.zeros(len(left), dtype=bool)),
        )
        vocabulary = self.vocabulary()
        categories = Categories(
            tuple(vocabulary.labels), vocabulary.is_thing, tuple(range(1, self.classes + 1))
        )
        seen = self.text(1).seen.tolist()
        things = [n for n, k in zip(left, class_ids, strict=True) if vocabulary.is_thing[k]]
        codes = encode_masks(np.stack([ids == n for n in things]))
        truth = {
            "images": [{"id": 1, "height": self.size[0], "width": self.size[1]}],
            "categories": [
                {"id": k + 1, "name": name}
                for k, name in enumerate(categories.names)
                if vocabulary.is_thing[k]
            ],
            "annotations": [
                {
                    "id": int(n),
                    "image_id": 1,
                    "category_id": int((n - 1) % self.classes) + 1,
                    "segmentation": code,
                    "area": int((ids == n).sum()),
                    "bbox": [0, 0, self.size[1], self.size[0]],
                    "iscrowd": 0,
                }
                for n, code in zip(things, codes, strict=True)
            ],
        }
        return record, {
            "panoptic": tasks.PanopticEvaluator(categories, seen),
            "semantic": tasks.SemanticEvaluator(categories, seen),
            "instances": tasks.DetectionEvaluator(categories, seen, InstanceAP(ground_truth=truth)),
        }

    def sample(self, generator: torch.Generator) -> Sample:
        """Make an image of noise for training, with `OBJECTS` objects."""
        height, width = self.size
        return Sample(
            image=torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator),
            height=height,
            width=width,
            record=Record("made up", "made up", height, width, self.classes),
            targets=Targets(
                torch.randint(0, self.classes, (OBJECTS,), generator=generator),
                rectangles(self.size, generator),
            ),
        )

    def _class_index(self) -> np.ndarray:
        return np.arange(self.names) * self.classes // self.names


def rectangles(size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Make masks of random rectangles (OBJECTS, H, W) bool."""
    inside = torch.ones(OBJECTS, *size, dtype=torch.bool)
    for axis, length in enumerate(size):
        ends = torch.randint(0, length, (OBJECTS, 2), generator=generator).sort(dim=1).values
        position = torch.arange(length)
        within = (position >= ends[:, :1]) & (position <= ends[:, 1:])
        inside &= within[:, :, None] if axis == 0 else within[:, None]
    return inside
