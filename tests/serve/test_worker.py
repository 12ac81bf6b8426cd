"""Answers made by the model's process: equal to what Python gives, and errors of single images."""

import base64
import io
import json
import logging
import threading
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from frozenseg.build.prediction import build_predictor
from frozenseg.config import load_config
from frozenseg.predictor import Predictor
from frozenseg.serve import worker
from frozenseg.serve.jobs import TASKS, Job, ModelInfo, ModelSource
from frozenseg.serve.limits import Limits
from frozenseg.serve.worker import answers, work
from frozenseg.text.vocabulary import Vocabulary
from tests.conftest import TINY_OPTIONS

WORDS = Vocabulary.parse("car, truck; road; sky; dog")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return build_predictor(load_config(None, [*TINY_OPTIONS, "SEED", "0"]))


def png(seed: int, size: tuple[int, int] = (70, 90)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def job(image: bytes, form: str = "json", threshold: float = 0.0, tasks=TASKS) -> Job:
    return Job(image, WORDS, threshold, tasks, form)


def ask(predictor: Predictor, *jobs: Job, limits: Limits | None = None):
    return answers(predictor, list(jobs), "tiny", limits or Limits())


def ids_of(data: bytes) -> np.ndarray:
    colors = np.asarray(Image.open(io.BytesIO(data)), np.int32)
    return colors @ [1, 256, 65536]


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_all_forms_say_what_the_predictor_says(predictor: Predictor, threshold: float) -> None:
    expected = predictor(Image.open(io.BytesIO(png(1))), WORDS, threshold=threshold)
    forms = ask(predictor, *[job(png(1), form, threshold) for form in ("json", "map", "png")])
    runs, maps = (json.loads(answer.body) for answer in forms[:2])
    ids, semantic = (ids_of(base64.b64decode(maps[k]["ids"])) for k in ("panoptic", "semantic"))
    np.testing.assert_array_equal(ids, expected.panoptic.ids)
    np.testing.assert_array_equal(ids_of(forms[2].body), expected.panoptic.ids)
    np.testing.assert_array_equal(semantic - 1, expected.semantic)
    segments = expected.panoptic.segments
    assert [row["id"] for row in runs["panoptic"]["segments"]] == [s.id for s in segments]
    for row, segment in zip(runs["panoptic"]["segments"], segments, strict=True):
        assert (row["name"], row["box"]) == (segment.name, list(segment.box))
        mask = coco_mask.decode(row["segmentation"]).astype(bool)
        np.testing.assert_array_equal(mask, expected.panoptic.ids == segment.id)
    for row in runs["semantic"]["classes"]:
        mask = coco_mask.decode(row["segmentation"]).astype(bool)
        np.testing.assert_array_equal(mask, expected.semantic == row["class_id"])
        assert mask.sum() == row["area"] > 0
    assert len(runs["instances"]) == len(expected.instances)
    for row, mask in zip(runs["instances"], expected.instances.masks, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(row["segmentation"]).astype(bool), mask)
    assert [entry["names"] for entry in runs["classes"]] == [list(names) for names in WORDS.names]


def test_tasks_that_are_not_asked_for_are_null(predictor: Predictor) -> None:
    (answer,) = ask(predictor, job(png(1), tasks=("semantic",)))
    body = json.loads(answer.body)
    assert body["panoptic"] is None and body["instances"] is None and body["semantic"]


def test_an_overlay_is_the_drawn_result(predictor: Predictor) -> None:
    (answer,) = ask(predictor, job(png(2), "overlay", 0.25))
    drawn = predictor(Image.open(io.BytesIO(png(2))), WORDS).draw()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.body))), drawn)


def test_a_bad_image_among_good_ones_is_told_and_the_others_are_done(predictor: Predictor) -> None:
    bomb = b"P6 9000 9000 255\n" + b"\0" * 100
    images = [png(1), b"", b"<html>", png(1)[:300], bomb, png(3, (20, 400)), png(1)]
    limits = Limits(pixels=1_000_000)
    outcomes = ask(predictor, *[job(image) for image in images], limits=limits)
    assert [answer.status for answer in outcomes] == [200, 422, 422, 422, 413, 200, 200]
    for answer in outcomes[1:5]:
        (line,) = json.loads(answer.body).values()
        assert "\n" not in line and "/" not in line.replace("JPEG/", ""), "names no file"
    whole, _, _, _, _, wide, again = outcomes
    bodies = [json.loads(answer.body) for answer in (whole, again)]
    for body in bodies:
        del body["seconds"]
    assert bodies[0] == bodies[1]
    assert json.loads(wide.body)["width"] == 400


def test_large_images_do_not_share_memory_but_answers_stay_in_order(predictor: Predictor) -> None:
    seen: list[int] = []
    stream = predictor.stream

    def counted(images, *arguments, **options):
        seen.append(len(images))
        return stream(images, *arguments, **options)

    jobs = [job(png(1)), job(b""), job(png(2)), job(png(3)), job(png(4, (20, 40)))]
    together = [json.loads(answer.body) for answer in ask(predictor, *jobs)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "stream", counted)
        apart = ask(predictor, *jobs, limits=Limits(pixels=2 * 70 * 90))
    assert seen == [2, 2]
    for one, answer in zip(together, apart, strict=True):
        body = json.loads(answer.body)
        assert {**body, "seconds": 0} == {**one, "seconds": 0}


def test_words_that_the_model_cannot_read_are_an_error_of_the_request(predictor: Predictor) -> None:
    long = Vocabulary.parse(["a b c d e " * 18])
    (answer,) = ask(predictor, Job(png(1), long, 0.25, TASKS, "json"))
    assert answer.status == 422 and "error" in json.loads(answer.body)


@pytest.mark.parametrize("backend", ["pytorch", "openvino"])
def test_the_service_is_told_of_graphs_wherever_the_backend_stands(
    tmp_path: Path, monkeypatch, backend: str
) -> None:
    (tmp_path / "own.yaml").write_text(f"MODEL:\n  BACKEND: {backend}\n")
    ready = SimpleNamespace(
        text_classifier=SimpleNamespace(keep_off_disk=lambda: None),
        model=SimpleNamespace(device="cpu"),
        note=None,
    )
    monkeypatch.setattr(worker, "build_predictor", lambda cfg: ready)
    _, info = worker._load(ModelSource(str(tmp_path / "own.yaml")), "cpu")
    assert info.makes_graphs == (backend != "pytorch")


def test_words_are_neither_written_to_disk_nor_logged(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, "frozenseg")
    (tmp_path / "tiny.yaml").write_text("SEED: 0\n")
    source = ModelSource(str(tmp_path / "tiny.yaml"), options=tuple(TINY_OPTIONS))
    ours, theirs = Pipe()
    process = threading.Thread(target=work, args=(theirs, source, "cpu", Limits()))
    process.start()
    assert ours.poll(100) and isinstance(ours.recv(), ModelInfo)
    caplog.clear()
    words = Vocabulary.parse(["тайна", "secret"])
    ours.send([Job(png(1), words, 0.25, TASKS, "json")])
    assert ours.poll(100) and ours.recv().answers[0].status == 200
    ours.close()
    process.join()
    assert not caplog.records
    assert list((tmp_path / "cache").rglob("*")) == []
