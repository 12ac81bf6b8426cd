"""What cases begin with: a tiny model, pictures, data sets, weights, and a run of four steps."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from frozenseg.build.models import build_model
from frozenseg.checkpoints.state_dict import model_state, write_state
from frozenseg.config import load_config
from frozenseg.data.rle import encode_masks
from tests.data.tiny import id_map
from tests.engine.tiny import TinyRun
from tests.faults.processes import run_command

LVIS = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
INSTANCES = {
    "images": [
        {"id": 1, "file_name": "1.png", "height": 60, "width": 80, **LVIS},
        {"id": 2, "file_name": "2.png", "height": 64, "width": 64, **LVIS},
    ],
    "categories": [
        {"id": 7, "name": "cat", "frequency": "f"},
        {"id": 3, "name": "dog", "frequency": "r"},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "iscrowd": 0, "area": 300,
         "bbox": [5, 5, 20, 15], "segmentation": [[5, 5, 25, 5, 25, 20, 5, 20]]},
        {"id": 2, "image_id": 2, "category_id": 3, "iscrowd": 0, "area": 300,
         "bbox": [9, 9, 20, 15], "segmentation": [[9, 9, 29, 9, 29, 24, 9, 24]]},
    ],
}  # fmt: skip


def build_world(root: Path) -> Path:
    """Write everything below `root`; returns it."""
    run = TinyRun(root)
    (root / "tiny.yaml").rename(root / "base.yaml")
    datasets = {key: [run.dataset] for key in ("DATASETS.TRAIN", "DATASETS.TEST")}
    (root / "tiny.yaml").write_text(yaml.safe_dump({"_BASE_": "base.yaml", **datasets}))
    _write_labels(root)
    (root / "instances.json").write_text(json.dumps(INSTANCES))
    results = [
        {"image_id": row["image_id"], "category_id": row["category_id"], "score": 0.9,
         "segmentation": encode_masks(_square(row["image_id"])[None])[0]}
        for row in INSTANCES["annotations"]
    ]  # fmt: skip
    (root / "results.json").write_text(json.dumps(results, default=bytes.decode))
    masks = [{"image_id": row["image_id"], "masks": [row["segmentation"]]} for row in results]
    (root / "proposals.json").write_text(json.dumps(masks, default=bytes.decode))
    model = build_model(load_config(root / "tiny.yaml"))
    write_state(root / "weights.safetensors", model_state(model))
    for part in ("clip", "sam"):
        encoder = getattr(model, part).model
        write_state(root / f"{part}.safetensors", encoder.state_dict())
    outcome = run_command(
        ["train_net", "--config-file", "tiny.yaml", "OUTPUT_DIR", "run"], root, 120
    )
    assert outcome.status == 0, outcome.text
    return root


def _square(image: int) -> np.ndarray:
    mask = np.zeros((60, 80) if image == 1 else (64, 64), np.uint8)
    mask[5:20, 5:25] = 1
    return mask


def _write_labels(root: Path) -> None:
    """Label maps 1.png and 2.png, and predictions equal to them."""
    for name in ("labels", "predicted"):
        (root / name).mkdir()
        for number, size in ((1, (60, 80)), (2, (64, 64))):
            labels = (id_map(*size) % 3).astype(np.uint8)
            Image.fromarray(labels).save(root / name / f"{number}.png")
    (root / "classes.json").write_text(
        json.dumps({"names": ["a", "b", "c"], "seen": [True, True, False]})
    )
