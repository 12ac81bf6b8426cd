"""Generated scenes as data of one's own, in each form in which it may come.

python -m tests.data.own_forms FOLDER [COUNT]      writes them and prints their names
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import yaml

from frozenseg.data.benchmarks import load_records
from frozenseg.small_world.export import export_split
from tests.data.tiny import load_instances

POLYGONS = {"path": ".", "train": "images"}
DESCRIBED = {
    "things": ["star", "circle", "square"],
    "train": {"images": "images", "annotations": "panoptic.json", "labels": "panoptic"},
}


def write_forms(root: Path, count: int) -> dict[str, str]:
    """Write scenes below `root`/train and describe them; returns {form: name of the data set}."""
    export_split(root, "train", count=count, seed=0, processes=1, progress=lambda chunks: chunks)
    folder = root / "train"
    names = {
        "coco_panoptic": f"coco_panoptic:{folder}/panoptic.json:{folder}/panoptic:{folder}/images",
        "coco_instances": f"coco_instances:{folder}/instances.json:{folder}/images",
        "label_maps": f"label_maps:{folder}/images:{folder}/semantic:{folder}/classes.txt",
        "ultralytics": f"{folder}/data.yaml:train",
        "yaml": f"{folder}/set.yaml:train",
    }
    categories = json.loads((folder / "panoptic.json").read_text())["categories"]
    (folder / "classes.txt").write_text("".join(f"{entry['name']}\n" for entry in categories))
    classes = write_polygons(names["coco_instances"], folder / "labels")
    (folder / "data.yaml").write_text(yaml.safe_dump(POLYGONS | {"names": classes}))
    (folder / "set.yaml").write_text(yaml.safe_dump(DESCRIBED))
    return names


def write_polygons(name: str, folder: Path) -> dict[int, str]:
    """Write the objects of an instance JSON as ultralytics' text; returns {number: class}.

    An object in several parts becomes its largest part.
    """
    folder.mkdir()
    records, categories = load_records(name)
    for record in records:
        masks, instances = load_instances(record)
        lines = []
        for mask, class_id in zip(masks, instances.class_ids.tolist(), strict=True):
            outlines, _ = cv2.findContours(
                mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            outline = max(outlines, key=cv2.contourArea)[:, 0] + 0.5
            if len(outline) > 2:
                shares = (outline / [record.width, record.height]).ravel()
                lines.append(" ".join([str(class_id), *(f"{share:.5f}" for share in shares)]))
        path = folder / f"{Path(record.image_path).stem}.txt"
        path.write_text("".join(f"{line}\n" for line in lines))
    return dict(enumerate(categories.names))


if __name__ == "__main__":
    for form, name in write_forms(Path(sys.argv[1]), int(*sys.argv[2:] or [36])).items():
        sys.stdout.write(f"{form} {name}\n")
