"""The command from end to end: the field's numbers, and one line for whatever is wrong."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from frozenseg.commands import run
from frozenseg.commands.score import main
from frozenseg.data.annotations import load_semantic
from frozenseg.data.benchmarks import load_records
from frozenseg.errors import UserError, WriteError
from tests.data.replicas import write_coco_2014
from tests.evaluation.cases import assert_close

TOLERANCE = {"panoptic": 1e-9, "instances": 1e-9, "lvis": 1e-9, "semantic": 1e-7, "recall": 1e-7}


def arguments(task: str, case: Path) -> list[str]:
    detections = f"--gt {case}/instances_gt.json --pred {case}/instances_pred.json"
    options = {
        "panoptic": f"--gt {case}/panoptic_gt.json --gt-dir {case}/panoptic_gt "
        f"--pred {case}/panoptic_pred.json --pred-dir {case}/panoptic_pred",
        "instances": detections,
        "lvis": detections,
        "semantic": f"--gt-dir {case}/semantic_gt --pred-dir {case}/semantic_pred "
        f"--classes {case}/seen.json",
        "recall": f"--images {case}/panoptic_gt.json --gt-dir {case}/semantic_gt "
        f"--proposals {case}/proposals.json --seen {case}/seen.json",
    }
    return [task, *options[task].split()]


@pytest.fixture
def case(reference: Path, tmp_path: Path) -> Path:
    """A copy of the reference case that a test may spoil."""
    return Path(shutil.copytree(reference / "evaluation", tmp_path / "case"))


@pytest.mark.parametrize("task", TOLERANCE)
def test_equals_the_reference(task: str, reference: Path, tmp_path: Path, capsys):
    case = reference / "evaluation"
    main([*arguments(task, case), "--json", str(tmp_path / "new" / "out.json")])
    expected = json.loads((case / "expected.json").read_text())[task]
    found = json.loads((tmp_path / "new" / "out.json").read_text())
    # pycocotools and lvis say -1 where no object is of a size; we say null
    undefined = {key for key, value in expected.items() if value == -1}
    assert {key for key, value in found.items() if value is None} == undefined
    defined = {key: value for key, value in expected.items() if key not in undefined}
    assert_close(found, defined, TOLERANCE[task])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) >= len(expected)


def test_a_reader_that_has_gone_does_not_cost_the_file(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("builtins.print", Mock(side_effect=BrokenPipeError))
    out = tmp_path / "out.json"
    with pytest.raises(BrokenPipeError):
        main([*arguments("semantic", reference / "evaluation"), "--json", str(out)])
    assert "mIoU" in json.loads(out.read_text())


def test_a_full_disk_does_not_cost_the_table(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr("frozenseg.commands.score.write_json", Mock(side_effect=WriteError("full")))
    with pytest.raises(WriteError):
        main([*arguments("semantic", reference / "evaluation"), "--json", str(tmp_path / "o.json")])
    assert "mIoU" in capsys.readouterr().out


def edit(name: str, change: Callable) -> Callable[[Path], None]:
    """Spoil a JSON file of the case."""

    def spoil(case: Path) -> None:
        content = json.loads((case / name).read_text())
        change(content)
        (case / name).write_text(json.dumps(content))

    return spoil


def cut(name: str) -> Callable[[Path], None]:
    return lambda case: (case / name).write_bytes((case / name).read_bytes()[:-200])


def remove(name: str) -> Callable[[Path], None]:
    return lambda case: (case / name).unlink()


def resize(name: str) -> Callable[[Path], None]:
    return lambda case: Image.open(case / name).resize((9, 8)).save(case / name)


def paint(name: str, value: int | tuple[int, int, int]) -> Callable[[Path], None]:
    def spoil(case: Path) -> None:
        pixels = np.array(Image.open(case / name))
        pixels[:2, :2] = value
        Image.fromarray(pixels).save(case / name)

    return spoil


PNG = "000000001007.png"


def swap_names(content: dict) -> None:
    first, second = content["categories"][:2]
    first["name"], second["name"] = second["name"], first["name"]


SPOILED = {
    "predicted categories of other ids": (
        "panoptic",
        lambda c: (
            (c / "panoptic_pred.json").write_text(
                json.dumps(
                    {
                        **json.loads((c / "panoptic_pred.json").read_text()),
                        "categories": json.loads((c / "panoptic_gt.json").read_text())[
                            "categories"
                        ],
                    }
                )
            ),
            edit("panoptic_pred.json", swap_names)(c),
        ),
        "which in",
    ),
    "image ids as text": (
        "panoptic",
        edit(
            "panoptic_pred.json",
            lambda d: [a.update(image_id=str(a["image_id"])) for a in d["annotations"]],
        ),
        "it is text, but their ids are numbers",
    ),
    "truth of no image": (
        "panoptic",
        edit("panoptic_gt.json", lambda d: d.update(annotations=[])),
        "panoptic_gt.json: lists no annotations",
    ),
    "two label maps of one image": (
        "recall",
        lambda c: Image.open(next((c / "semantic_gt").iterdir())).save(
            next((c / "semantic_gt").iterdir()).with_suffix(".TIF")
        ),
        "keep one of them",
    ),
    "recall of no image": (
        "recall",
        edit("panoptic_gt.json", lambda d: d.update(images=[])),
        "lists no images",
    ),
    "gt json cut off": ("panoptic", cut("panoptic_gt.json"), "panoptic_gt.json"),
    "pred json cut off": ("instances", cut("instances_pred.json"), "instances_pred.json"),
    "classes cut off": ("semantic", lambda c: (c / "seen.json").write_text("{"), "seen.json"),
    "panoptic category": (
        "panoptic",
        edit(
            "panoptic_pred.json",
            lambda d: d["annotations"][3]["segments_info"][1].update(category_id=2),
        ),
        "annotations[3]",
    ),
    "id only in png": ("panoptic", paint(f"panoptic_pred/{PNG}", (9, 9, 9)), PNG),
    "id only in gt png": ("panoptic", paint(f"panoptic_gt/{PNG}", (9, 9, 9)), PNG),
    "segment only in json": (
        "panoptic",
        edit(
            "panoptic_pred.json",
            lambda d: d["annotations"][1]["segments_info"].append({"id": 777, "category_id": 13}),
        ),
        "segment 777",
    ),
    "no prediction": (
        "panoptic",
        edit("panoptic_pred.json", lambda d: d["annotations"].pop()),
        "1161",
    ),
    "unknown panoptic image": (
        "panoptic",
        edit("panoptic_pred.json", lambda d: d["annotations"][0].update(image_id=5)),
        "image 5",
    ),
    "no annotations": (
        "panoptic",
        edit("panoptic_gt.json", lambda d: d.pop("annotations")),
        "annotations",
    ),
    "no file name": (
        "panoptic",
        edit("panoptic_pred.json", lambda d: d["annotations"][0].pop("file_name")),
        "annotations[0]",
    ),
    "pred png gone": ("panoptic", remove(f"panoptic_pred/{PNG}"), f"panoptic_pred/{PNG}"),
    "gt png gone": ("panoptic", remove(f"panoptic_gt/{PNG}"), f"panoptic_gt/{PNG}"),
    "pred png cut off": ("panoptic", cut(f"panoptic_pred/{PNG}"), f"panoptic_pred/{PNG}"),
    "other size": ("panoptic", resize(f"panoptic_pred/{PNG}"), f"panoptic_pred/{PNG}"),
    "folder gone": (
        "panoptic",
        lambda c: shutil.rmtree(c / "panoptic_pred"),
        "panoptic_pred: no such folder",
    ),
    "label map gone": ("semantic", remove(f"semantic_pred/{PNG}"), PNG),
    "label map too many": ("semantic", remove(f"semantic_gt/{PNG}"), PNG),
    "label map size": ("semantic", resize(f"semantic_pred/{PNG}"), f"semantic_pred/{PNG}"),
    "label unknown": ("semantic", paint(f"semantic_pred/{PNG}", 77), "label 77"),
    "colours": (
        "semantic",
        lambda c: Image.new("RGB", Image.open(c / "semantic_gt" / PNG).size, "red").save(
            c / "semantic_pred" / PNG
        ),
        "mode RGB",
    ),
    "unknown image": (
        "instances",
        edit("instances_pred.json", lambda d: d[4].update(image_id=5)),
        "entry 4",
    ),
    "unknown category": (
        "lvis",
        edit("instances_pred.json", lambda d: d[4].update(category_id=5)),
        "entry 4",
    ),
    "score is text": (
        "instances",
        edit("instances_pred.json", lambda d: d[4].update(score="1")),
        "entry 4",
    ),
    "score is nan": (
        "instances",
        edit("instances_pred.json", lambda d: d[4].update(score=float("nan"))),
        "nan",
    ),
    "malformed rle": (
        "instances",
        edit("instances_pred.json", lambda d: d[0]["segmentation"].update(counts="Q`99e2")),
        "image 1000",
    ),
    "rle of other size": (
        "lvis",
        edit("instances_pred.json", lambda d: d[0]["segmentation"].update(size=[5, 5])),
        "image 1000",
    ),
    "malformed gt rle": (
        "instances",
        edit("instances_gt.json", lambda d: d["annotations"][2]["segmentation"].update(counts="0")),
        "annotations[2]",
    ),
    "not lvis": (
        "lvis",
        edit("instances_gt.json", lambda d: d["categories"][1].pop("frequency")),
        "frequency",
    ),
    "results in an object": (
        "instances",
        lambda c: (c / "instances_pred.json").write_text('{"objects": []}'),
        "list was expected",
    ),
    "malformed proposal": (
        "recall",
        edit("proposals.json", lambda d: d[2]["masks"][1].update(counts="Q`99e2")),
        "proposals.json: image 1014",
    ),
    "unknown proposal image": (
        "recall",
        edit("proposals.json", lambda d: d[2].update(image_id=5)),
        "entry 2",
    ),
    "recall without label map": ("recall", remove(f"semantic_gt/{PNG}"), PNG),
    "seen too short": ("recall", edit("seen.json", lambda d: d["seen"].pop()), "seen.json"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_bad_input_is_one_line_with_status_2(
    name: str, case: Path, tmp_path: Path, capsys, monkeypatch
):
    task, spoil, mentioned = SPOILED[name]
    spoil(case)
    output = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["score.py", *arguments(task, case), "--json", str(output)])
    with pytest.raises(SystemExit) as ended:
        run(main)
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    assert mentioned in captured.err
    assert captured.out == "" and not output.exists()


def test_output_is_checked_first(case: Path, tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    for output in (tmp_path, tmp_path / "file" / "out.json"):
        command = ["score.py", *arguments("instances", case), "--json", str(output)]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            run(main)
        assert ended.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("task", TOLERANCE)
def test_scores_are_not_written_over_what_is_scored(task: str, case: Path):
    given = arguments(task, case)
    for file in (Path(word) for word in given if word.endswith(".json")):
        before = file.read_bytes()
        with pytest.raises(UserError, match="is an input too"):
            main([*given, "--json", str(file)])
        assert file.read_bytes() == before


def test_images_without_results(case: Path, tmp_path: Path, caplog):
    """No result at all scores 0; an image without an entry of proposals counts as missed."""
    (case / "instances_pred.json").write_text("[]")
    (case / "proposals.json").write_text("[]")
    out = tmp_path / "out.json"
    for task in ("instances", "lvis"):
        main([*arguments(task, case), "--json", str(out)])
        assert json.loads(out.read_text())["AP"] == 0
    main([*arguments("recall", case), "--json", str(out)])
    assert set(json.loads(out.read_text()).values()) == {0}
    assert "24 of 24 images" in caplog.text


def test_a_fold_of_objects_is_scored_by_its_classes_alone(tmp_path, monkeypatch) -> None:
    """Its instance JSON has the objects of all 80 classes."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_coco_2014(tmp_path)
    name, folder = "coco20i_fold3_val", tmp_path / "predicted"
    (tmp_path / "x.json").write_text("[]")
    for task in ("instances", "lvis"):
        with pytest.raises(UserError, match="fold has no objects; use frozenseg score semantic"):
            main([task, "--gt", name, "--pred", str(tmp_path / "x.json")])
    records, categories = load_records(name)
    folder.mkdir()
    for record in records:
        labels = load_semantic(record)
        labels[labels < 0] = 255
        path = folder / Path(record.image_path).with_suffix(".png").name
        Image.fromarray(labels.astype(np.uint8)).save(path)
    scores = tmp_path / "scores.json"
    main(["semantic", "--gt", name, "--pred-dir", str(folder), "--json", str(scores)])
    found = json.loads(scores.read_text())
    assert found["mIoU"] == 100 and len(categories) == 20
