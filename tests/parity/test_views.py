"""What the published recipe shows in training: views, targets and padding of one made-up picture.

The picture tells its coordinates (red: column, green: twice the row), so that scale, mirroring and
place of a view can be read off its pixels.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from frozenseg.build.optimization import training_loss
from frozenseg.build.training_data import training_dataset
from frozenseg.config import load_config
from frozenseg.data.dataset import Sample, SampleIndex, SegmentationDataset
from frozenseg.structures import TextEmbeddings

ROOT = Path(__file__).resolve().parents[2]
COCO = ROOT / "configs" / "coco" / "frozenseg"
PUBLISHED, OURS = COCO / "convnext_large_eval_ade20k.yaml", COCO / "convnext_large.yaml"
HEIGHT, WIDTH, CROP, DRAWS = 96, 144, 64, 300
OBJECTS = 5


def write_picture(root: Path) -> str:
    """Objects in the four corners and the middle; the name of the data set."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.stack([columns, 2 * rows, np.full_like(rows, 250)], -1).astype(np.uint8)
    Image.fromarray(picture).save(root / "picture.png")
    ids = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    corners = [(0, 0), (0, WIDTH - 12), (HEIGHT - 12, 0), (HEIGHT - 12, WIDTH - 12), (42, 66)]
    for number, (top, left) in enumerate(corners, 1):
        ids[top : top + 12, left : left + 12, 0] = number
    Image.fromarray(ids).save(root / "labels.png")
    segments = [
        {"id": n, "category_id": 1, "iscrowd": 0, "area": 144, "bbox": [left, top, 12, 12]}
        for n, (top, left) in enumerate(corners, 1)
    ]
    image = {"id": 1, "file_name": "picture.png", "height": HEIGHT, "width": WIDTH}
    annotation = {"image_id": 1, "file_name": "labels.png", "segments_info": segments}
    content = {
        "images": [image],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}],
    }
    (root / "truth.json").write_text(json.dumps(content))
    (root / "words.txt").write_text("cat\n")
    return f"coco_panoptic:{root}/truth.json:{root}:{root}"


def options(root: Path) -> list[str]:
    return [
        "MODEL.DEVICE", "cpu",
        "SEED", "7",
        "DATASETS.TRAIN", f"('{write_picture(root)}',)",
        "DATASETS.VOCABULARY", str(root / "words.txt"),
        "INPUT.IMAGE_SIZE", str(CROP),
    ]  # fmt: skip


@dataclass
class View:
    """mirrored; scaled: (height, width) of the picture before the crop; place: of the crop in the
    mirrored picture, 0-1 along (rows, columns), None where there is nothing to choose."""

    mirrored: bool
    scale: float
    place: tuple[float, float] | None


def read_view(image: np.ndarray) -> View:
    inside = image[..., 2] == 250
    height, width = inside.any(1).sum(), inside.any(0).sum()
    red = image[height // 2, :width, 0].astype(float)
    green = image[:height, width // 2, 1].astype(float) / 2
    mirrored = bool(red[0] > red[-1])
    if width < CROP:
        return View(mirrored, width / CROP, None)
    slope, first = np.polyfit(np.arange(8, CROP - 8), red[8:-8], 1)
    scaled = WIDTH / abs(slope)
    if scaled * HEIGHT / WIDTH <= CROP + 12:  # the rows tell too little of their place
        return View(mirrored, scaled / CROP, None)
    rise, top = np.polyfit(np.arange(8, CROP - 8), green[8:-8], 1)
    left = (WIDTH - 1 - first if mirrored else first) + 0.5
    spare = scaled * HEIGHT / WIDTH - CROP, scaled - CROP
    place = ((top + 0.5) / rise - 0.5) / spare[0], (left / abs(slope) - 0.5) / spare[1]
    return View(mirrored, scaled / CROP, place)


def samples(dataset: SegmentationDataset) -> Iterator[Sample]:
    return (dataset[SampleIndex(position, 0)] for position in range(DRAWS))


def pixels(sample: Sample) -> np.ndarray:
    return sample.image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("recipe", "tied"), [(PUBLISHED, True), (OURS, False)])
def test_views(recipe: Path, tied: bool, tmp_path: Path) -> None:
    """Mirrored half the time, scales uniform in 0.1 to 2; one number for both axes, or two."""
    dataset, _ = training_dataset(load_config(recipe, options(tmp_path)))
    views = [read_view(pixels(sample)) for sample in samples(dataset)]
    mirrored = np.mean([view.mirrored for view in views])
    assert abs(mirrored - 0.5) < 3 * 0.5 / DRAWS**0.5
    uniform = (np.sort([view.scale for view in views]) - 0.1) / 1.9
    ideal = (np.arange(DRAWS) + 0.5) / DRAWS
    assert np.abs(uniform - ideal).max() < 1.63 / DRAWS**0.5 + 0.01  # Kolmogorov-Smirnov, 1 %
    apart = [abs(view.place[0] - view.place[1]) for view in views if view.place]
    assert len(apart) > 20
    assert np.mean(apart) < 0.1 if tied else np.mean(apart) > 0.2  # independent: 0.33


@pytest.mark.parametrize(("recipe", "kept"), [(PUBLISHED, True), (OURS, False)])
def test_targets_and_what_is_painted_around(recipe: Path, kept: bool, tmp_path: Path) -> None:
    dataset, _ = training_dataset(load_config(recipe, options(tmp_path)))
    counts, empty = [], 0
    for sample in samples(dataset):
        counts.append(len(sample.targets.class_ids))
        empty += int((~sample.targets.masks.any((1, 2))).sum())
        outside = pixels(sample)[..., 2] != 250
        assert (pixels(sample)[outside] == 128).all()
    assert (set(counts) == {OBJECTS}) == kept
    assert (empty > 0) == kept


@pytest.mark.parametrize(("recipe", "grey"), [(PUBLISHED, True), (OURS, False)])
def test_padding_that_the_encoders_see(recipe: Path, grey: bool, tmp_path: Path) -> None:
    cfg = load_config(recipe, options(tmp_path))
    dataset, _ = training_dataset(cfg)
    small = next(sample for sample in samples(dataset) if max(sample.unpadded_size) < CROP // 2)
    model = SimpleNamespace(size_divisor=32)
    text = TextEmbeddings(torch.eye(1, 4), torch.zeros(1).long(), torch.ones(1).bool())
    batch = training_loss(cfg, model, text).prepare([small], [0], 0, torch.device("cpu"))
    mean, std = (torch.tensor(values) for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    found = batch.images.normalized(mean, std)[0, :, -1, -1]
    expected = (128 - mean) / std if grey else torch.zeros(3)
    torch.testing.assert_close(found, expected)
