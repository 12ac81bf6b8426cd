"""What results.json says of a data set besides its scores."""

import json
from pathlib import Path

import torch
import yaml

from frozenseg.build.device import build_precision
from frozenseg.build.evaluator import eval_datasets
from frozenseg.build.provenance import about_sets
from frozenseg.config import load_config
from tests.data.tiny import write_dataset


def test_files_and_classes_of_one_name_stand_apart(tmp_path: Path) -> None:
    content = write_dataset(tmp_path, [(40, 60)])
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "panoptic.json").write_text(json.dumps({**content, "annotations": []}))
    (tmp_path / "classes.txt").write_text("3:dog\n7:animal\n90:animal\n")
    files = {"images": "images", "annotations": "panoptic.json", "labels": "png"}
    split = {**files, "instances": "objects/panoptic.json"}
    (tmp_path / "set.yaml").write_text(yaml.safe_dump({"val": split}))
    name = f"{tmp_path}/set.yaml:val"
    lists = (f"{name}={tmp_path}/classes.txt",)
    cfg = load_config(None, {"DATASETS.TEST": (name,), "DATASETS.VOCABULARIES": lists})
    precision = build_precision(cfg, torch.device("cpu"))
    found = about_sets(cfg, eval_datasets(cfg), precision, weights="", frozen={})[name]
    assert found["classes"] == {"3": "dog", "7": "animal (1)", "90": "animal (2)"}
    digests = found["provenance"]["data"]
    assert digests["panoptic.json (0)"] != digests["panoptic.json (1)"]
