"""TEST.SAVE_PREDICTIONS: what is kept scores as the evaluation did, in each server's form."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from frozenseg.build.kept_predictions import predictions_folder
from frozenseg.commands import score
from frozenseg.commands.train_net import main
from frozenseg.config import load_config
from frozenseg.data.benchmarks import find_benchmark
from frozenseg.data.benchmarks.short_names import short_names
from frozenseg.data.records import Categories, Record
from frozenseg.errors import UserError
from frozenseg.evaluation.kept_files import CityscapesInstanceFiles, LabelFiles, file_stems
from frozenseg.files import json_text
from frozenseg.structures import InstanceResult, Prediction
from tests.data.tiny import write_dataset
from tests.engine.tiny import SIZES, TinyRun

CITIES = Categories(names=("road", "car"), is_thing=(False, True), dataset_ids=(7, 26))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyRun:
    torch.set_num_threads(1)
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path / "cache"))
    return TinyRun(tmp_path)


def evaluated(run: TinyRun, name: str) -> tuple[dict[str, Any], Path]:
    """The details of an evaluation, and the folder of its predictions."""
    options = ("DATASETS.TEST", f"('{name}',)", "TEST.SAVE_PREDICTIONS", "True")
    assert main(run.arguments("eval", *options, flags=("--eval-only",))) == 0
    found = json.loads((run.root / "eval" / "results.json").read_text())
    (folder,) = (run.root / "eval" / "predictions").iterdir()
    return found[name]["details"], folder


def scored(run: TinyRun, *arguments: str) -> dict[str, Any]:
    out = run.root / "scores.json"
    assert not score.main([*arguments, "--json", str(out)])
    return json.loads(out.read_text())


def test_panoptic_and_semantic_predictions_score_as_the_evaluation(run: TinyRun) -> None:
    stray = run.root / "eval" / "predictions" / "data_panoptic" / "panoptic" / "of_before.png"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"")
    details, folder = evaluated(run, run.dataset)
    assert folder.name == "data_panoptic" and not stray.exists()
    assert {"panoptic", "semantic"} <= set(details)
    truth = ("--gt", str(run.root / "data/panoptic.json"), "--gt-dir", str(run.root / "data/png"))
    kept = ("--pred", str(folder / "panoptic.json"), "--pred-dir", str(folder / "panoptic"))
    found = scored(run, "panoptic", *truth, *kept)
    assert found == {name: details["panoptic"][name] for name in found}
    maps = sorted((folder / "semantic").iterdir())
    assert [path.stem for path in maps] == [
        path.stem for path in sorted((run.root / "data" / "images").iterdir())
    ]
    assert {int(value) for path in maps for value in np.unique(Image.open(path))} <= {0, 1, 2, 255}
    found = scored(run, "semantic", "--gt", run.dataset, "--pred-dir", str(folder / "semantic"))
    assert "mIoU" in found
    assert found == {name: details["semantic"][name] for name in found}


def test_predictions_stay_until_the_next_evaluation_begins(run: TinyRun) -> None:
    """A wrong setting ends a command after the data sets are read; it costs nothing."""
    options = ("DATASETS.TEST", f"('{run.dataset}',)", "TEST.SAVE_PREDICTIONS", "True")
    before = run.root / "eval" / "predictions" / "data_panoptic" / "panoptic.json"
    before.parent.mkdir(parents=True)
    before.write_text("of before")
    expected = ("TEST.EXPECTED_RESULTS", f"[['{run.dataset}', 'misspelt', 1, 1]]")
    with pytest.raises(UserError, match="has no misspelt"):
        main(run.arguments("eval", *options, *expected, flags=("--eval-only",)))
    assert before.read_text() == "of before"


def test_instance_predictions_score_as_the_evaluation(run: TinyRun) -> None:
    content = write_dataset(run.root / "own", SIZES[:2])
    objects = [
        {"id": number, "image_id": image["id"], "category_id": content["categories"][0]["id"],
         "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0,
         "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
        for number, image in enumerate(content["images"], start=1)
    ]  # fmt: skip
    path = run.root / "own" / "instances.json"
    path.write_text(json_text({**content, "annotations": objects}))
    details, folder = evaluated(run, f"coco_instances:{path}:{run.root / 'own' / 'images'}")
    kept = folder / "coco_instances_results.json"
    found = scored(run, "instances", "--gt", str(path), "--pred", str(kept))
    for key, value in details["instances"].items():
        if key in found:
            assert found[key] == pytest.approx(value, nan_ok=True)
    rows = json.loads(kept.read_text())
    assert {"image_id", "category_id", "segmentation", "bbox", "score"} == set(rows[0])


def test_images_without_annotation_are_kept_and_not_scored(run: TinyRun) -> None:
    images, classes = run.root / "data" / "images", run.root / "classes.txt"
    classes.write_text("cat\ndog\ngrass\n")
    listed = json.loads((run.root / "data" / "panoptic.json").read_text())
    del listed["annotations"]
    (run.root / "list.json").write_text(json.dumps(listed))
    name = f"images:{classes}:{images}"
    for own in (name, f"images:{run.root / 'list.json'}:{images}"):
        details, folder = evaluated(run, own)
        assert details == {}
        found = json.loads((folder / "panoptic.json").read_text())
        assert len(found["annotations"]) == len(list(images.iterdir()))
        assert [category["name"] for category in found["categories"]] == (
            ["cat", "dog", "grass"] if own == name else ["dog", "cat", "grass"]
        )
        assert json.loads((folder / "coco_instances_results.json").read_text())
        shutil.rmtree(folder)
    row = find_benchmark(own)
    assert row.kept_labels((3, 7, 90)) == ([3, 7, 90], 0)
    # The value of no class is that of none, whatever the ids.
    assert row.kept_labels((0, 7, 90)) == ([0, 7, 90], 255)
    assert row.kept_labels(range(300)) == ([*range(300)], 65535)
    assert row.kept_labels((0, 255, 65535)) == ([0, 255, 65535], 65534)
    with pytest.raises(UserError, match=r"list.json: category id 65536 does not fit"):
        row.kept_labels((1, 65536))
    tested = ("DATASETS.TEST", f"('{name}',)")
    with pytest.raises(UserError, match=r"no annotation for scores; set TEST.SAVE_PREDICTIONS"):
        main(run.arguments("eval", *tested, flags=("--eval-only",)))
    with pytest.raises(UserError, match="images without annotation cannot be trained on"):
        main(run.arguments("out", "DATASETS.TRAIN", f"('{name}',)"))


def record(path: str, image_id: int | str) -> Record:
    return Record(image_id=image_id, image_path=path, height=4, width=6, num_classes=2)


def test_cityscapes_takes_a_list_of_pictures_for_each_image(tmp_path: Path) -> None:
    masks = np.zeros((2, 4, 6), dtype=bool)
    masks[0, :2], masks[1, 2:] = True, True
    found = InstanceResult(
        np.zeros((2, 4), np.float32), masks, np.array([0.5, 0.25]), np.array([1, 1]), ["car"] * 2
    )
    one = record("leftImg8bit/ulm/ulm_000000_000019_leftImg8bit.png", "ulm_000000_000019")
    kept = CityscapesInstanceFiles(tmp_path, file_stems([one]), CITIES)
    kept.update(one, Prediction(size=(4, 6), instances=found))
    stem = "ulm_000000_000019_leftImg8bit"
    listed = (tmp_path / "instances" / f"{stem}_pred.txt").read_text()
    assert listed == f"{stem}_0.png 26 0.5\n{stem}_1.png 26 0.25\n"
    with Image.open(tmp_path / "instances" / f"{stem}_1.png") as picture:
        assert ((np.array(picture) == 255) == masks[1]).all()


@pytest.mark.parametrize(
    ("name", "ids", "labels", "none"),
    [
        ("openvocab_ade20k_panoptic_val", (0, 1, 2), [1, 2, 3], 0),
        ("openvocab_cityscapes_fine_panoptic_val", (7, 8, 26), [7, 8, 26], 0),
        ("openvocab_coco_2017_val_panoptic_with_sem_seg", (1, 2, 200), [0, 1, 2], 255),
    ],
)
def test_labels_are_those_of_the_server(
    tmp_path: Path, name: str, ids: tuple[int, ...], labels: list[int], none: int
) -> None:
    assert find_benchmark(name).kept_labels(ids) == (labels, none)
    one = record("a.jpg", 1)
    kept = LabelFiles(tmp_path, file_stems([one]), labels=labels, none=none)
    kept.update(one, Prediction(size=(1, 4), semantic=np.array([[0, 1, 2, -1]])))
    with Image.open(tmp_path / "semantic" / "a.png") as picture:
        assert np.array(picture).tolist() == [[*labels, none]]


def test_images_of_one_name_have_two_files() -> None:
    records = [record("a/1.jpg", 5), record("b/1.jpg", 6)]
    assert file_stems(records) == {5: "000000_1", 6: "000001_1"}


def test_short_names_differ() -> None:
    files = ["label_maps:/d/a/images:/d/a/maps:c.txt", "label_maps:/d/b/images:/d/b/maps:c.txt"]
    assert list(short_names([*files, "small_world_val"]).values()) == [
        "a/images", "b/images", "small_world_val",
    ]  # fmt: skip
    assert list(short_names(["coco_panoptic:p.json:x:y", "own/set.yaml"]).values()) == [
        "p", "own/set",
    ]  # fmt: skip
    here = ["label_maps:.:maps:c.txt", "label_maps:..:maps:c.txt", "label_maps:/:maps:c.txt"]
    assert list(short_names([*here, "coco_panoptic:a/p.json:x:y"]).values()) == [*here, "a/p"]


@pytest.mark.parametrize(
    "sets",
    [
        ("coco_panoptic:val/a_b.json:x:y", "coco_panoptic:val_a/b.json:x:y"),
        tuple(f"coco_panoptic:{'long/' * 60}p.json:x:{images}" for images in "yz"),
        (f"coco_panoptic:{'é' * 200}.json:x:y", "label_maps:..:x:c.txt", "small_world_val"),
    ],
)
def test_folders_of_predictions_differ(tmp_path: Path, sets: tuple[str, ...]) -> None:
    options = {"OUTPUT_DIR": str(tmp_path / "out"), "DATASETS.TEST": sets}
    folders = [predictions_folder(load_config(None, options), name) for name in sets]
    assert len(set(folders)) == len(sets)
    for folder in folders:
        folder.mkdir(parents=True)
        assert folder.resolve().parent == tmp_path / "out" / "predictions"
