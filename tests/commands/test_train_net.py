"""The training command: evaluation, exit status, bad input in one line, and how it starts."""

import hashlib
import json
import logging
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import frozenseg
from frozenseg.build import training
from frozenseg.build.prediction import load
from frozenseg.commands import run as run_command
from frozenseg.commands import score, train_net
from frozenseg.commands.train_net import Request, argument_parser, main
from frozenseg.config import load_config
from frozenseg.data import dataset
from frozenseg.data.annotations import load_semantic
from frozenseg.data.benchmarks import load_records
from frozenseg.data.records import Record
from frozenseg.errors import UserError, WriteError
from frozenseg.evaluation.on_disk import score_panoptic
from frozenseg.files import json_text
from frozenseg.text.vocabulary import Vocabulary
from tests.data.tiny import dataset_name, write_dataset
from tests.engine.test_fusioner import FUSIONER
from tests.engine.tiny import TinyRun

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch) -> TinyRun:
    torch.set_num_threads(1)
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path / "cache"))
    return TinyRun(tmp_path)


@pytest.fixture
def trained(run: TinyRun) -> TinyRun:
    assert main(run.arguments("out", "SOLVER.MAX_ITER", "2", "LOG.PICTURES", "1")) == 0
    return run


def only(run: TinyRun, *options: str) -> list[str]:
    weights = str(run.root / "out" / "model_final.safetensors")
    return run.arguments("eval", "MODEL.WEIGHTS", weights, *options, flags=("--eval-only",))


def test_a_run_leaves_all_its_files(trained: TinyRun) -> None:
    out = trained.root / "out"
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {
        "config.yaml",
        "log.txt",
        "metrics.jsonl",
        "curves.png",
        "results.json",
        "model_best.safetensors",
        "model_final.safetensors",
        "checkpoints/step_00000002.pt",
        "pictures/0_step_00000002.jpg",
    }
    with Image.open(out / "curves.png") as picture:
        assert picture.width > 500
    assert yaml.safe_load((out / "config.yaml").read_text())["SOLVER"]["MAX_ITER"] == 2
    assert load_config(out / "config.yaml").SEED == 7
    segmenter = load(out, weights=out / "model_final.safetensors")  # knows what it was trained on
    assert segmenter.embed(Vocabulary.parse("Cat; lorry")).seen.tolist() == [True, False]
    assert [row["step"] for row in trained.losses("out")] == [1, 2]


def test_log_and_results_say_what_they_were_made_with(trained: TinyRun) -> None:
    log = (trained.root / "out" / "log.txt").read_text()
    for said in (
        "command: ", "libraries: python ", "SOLVER.EMA: 0.5", "5 images; classes: 3, from ",
        "objects by class: ", "FrozenSeg in fp32 on cpu: ", "seed 7; parameters: ",
        "the moving average of the weights is scored", "step 2/2  loss ", "ended after ",
    ):  # fmt: skip
        assert said in log, said
    assert main(only(trained)) == 0
    told = [provenance(trained, name) for name in ("out", "eval")]
    weights = hashlib.sha256((trained.root / "out" / "model_final.safetensors").read_bytes())
    annotation = hashlib.sha256((trained.root / "data" / "panoptic.json").read_bytes())
    for about in told:
        assert about["weights"]["sha256"] == weights.hexdigest()
        assert about["data"]["panoptic.json"] == annotation.hexdigest()
        assert about["code"]["version"] == frozenseg.__version__
        assert about["configuration"]["SOLVER.EMA"] == 0.5
        assert about["versions"]["torch"] == torch.__version__
        assert about["precision"] == "fp32" and about["device"].startswith("cpu: ")
    assert told[0]["weights"]["frozen"] == told[1]["weights"]["frozen"]
    assert told[0]["data"] == told[1]["data"]
    eval_config = load_config(trained.root / "eval" / "config_eval.yaml")
    assert eval_config.MODEL.WEIGHTS == str(trained.root / "out" / "model_final.safetensors")
    assert "ended after" in (trained.root / "eval" / "log.txt").read_text()


def provenance(run: TinyRun, output: str) -> dict[str, Any]:
    entry = json.loads((run.root / output / "results.json").read_text())[run.dataset]
    assert entry["classes"] == {"3": "dog", "7": "cat", "90": "grass"}
    return entry["provenance"]


def test_a_set_that_fails_costs_no_scores_and_no_weights(run: TinyRun) -> None:
    """The second set has an image that cannot be read at the end."""
    write_dataset(run.root / "other", [(60, 80)])
    other = dataset_name(run.root / "other")
    options = ("DATASETS.TEST", f"('{run.dataset}', '{other}')", "SOLVER.MAX_ITER", "1")
    image = run.root / "other" / "images" / "1.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"1\.png"):
        main(run.arguments("out", *options))
    out = run.root / "out"
    assert (out / "model_final.safetensors").is_file() and not (out / "results.json").exists()
    assert list(json.loads((out / "results_so_far.json").read_text())) == [run.dataset]
    assert "ended by an error: " in (out / "log.txt").read_text()
    image.write_bytes(whole)
    assert main(run.arguments("out", *options, flags=("--resume",))) == 0
    assert list(json.loads((out / "results.json").read_text())) == [run.dataset, other]
    assert not (out / "results_so_far.json").exists()


def test_flags_may_stand_between_settings() -> None:
    words = ["OUTPUT_DIR", "out", "--resume", "SEED", "3", "--config-file", "small", "SEED", "4"]
    found = Request.of(argument_parser("", "").parse_intermixed_args(words))
    assert found == Request("small", ["OUTPUT_DIR", "out", "SEED", "3", "SEED", "4"], True, False)


def test_gpus_that_are_not_there(run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"--num-gpus 4: PyTorch finds no GPUs.*MODEL.DEVICE cpu"):
        main(run.arguments("out", "MODEL.DEVICE", "auto", flags=("--num-gpus", "4")))
    assert not (run.root / "out").exists()


def test_evaluation_is_that_of_the_scoring_command(trained: TinyRun) -> None:
    """The trained model through `frozenseg.load`, written to disk and scored from there."""
    assert main(only(trained)) == 0
    found = trained.results("eval")
    assert found == trained.results("out") and found["images"] == 5
    out, truth = trained.root / "out", json.loads((trained.root / "data/panoptic.json").read_text())
    records, categories = load_records(trained.dataset)
    segmenter = load(out)
    names = tuple((name,) for name in categories.names)
    vocabulary = Vocabulary(names, categories.is_thing)
    annotations = []
    for record in records:
        result = segmenter(record.image_path, vocabulary=vocabulary).panoptic
        ids = result.ids.astype(np.int64)
        colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        (trained.root / "pred").mkdir(exist_ok=True)
        Image.fromarray(colours).save(trained.root / "pred" / f"{record.image_id}.png")
        infos = [
            {"id": segment.id, "category_id": categories.dataset_ids[segment.class_id]}
            for segment in result.segments
        ]
        annotations.append(
            {"image_id": record.image_id, "file_name": f"{record.image_id}.png",
             "segments_info": infos}
        )  # fmt: skip
    prediction = trained.root / "pred.json"
    prediction.write_text(json.dumps(truth | {"annotations": annotations}))
    scores = score_panoptic(
        str(trained.root / "data/panoptic.json"),
        str(trained.root / "data/png"),
        str(prediction),
        str(trained.root / "pred"),
    )
    details = found["details"]["panoptic"]
    assert {name: details[name] for name in scores} == json.loads(json_text(scores))


def test_semantic_evaluation_is_that_of_the_scoring_command(
    trained: TinyRun, tmp_path: Path
) -> None:
    """Of a class that no image has, too: undefined in both, not 0 and not -1."""
    assert main(only(trained)) == 0
    details = trained.results("eval")["details"]["semantic"]
    records, categories = load_records(trained.dataset)
    out = trained.root / "out"
    segmenter = load(out, weights=out / "model_final.safetensors")
    vocabulary = Vocabulary(tuple((name,) for name in categories.names), categories.is_thing)
    for record in records:
        found = segmenter(record.image_path, vocabulary=vocabulary).semantic
        for name, labels in (("pred", found), ("gt", load_semantic(record))):
            (tmp_path / name).mkdir(exist_ok=True)
            values = np.where(labels < 0, 255, labels).astype(np.uint8)
            Image.fromarray(values).save(tmp_path / name / f"{record.image_id}.png")
    classes = tmp_path / "classes.json"
    seen = [True] * len(categories)
    classes.write_text(json.dumps({"names": categories.names, "seen": seen}))
    argv = ["--gt-dir", str(tmp_path / "gt"), "--pred-dir", str(tmp_path / "pred")]
    argv += ["--classes", str(classes), "--json", str(tmp_path / "scores.json")]
    assert not score.main(["semantic", *argv])
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores == details and scores["mIoU-unseen"] is None


def test_a_training_checkpoint_can_be_evaluated(trained: TinyRun) -> None:
    """With its average, as at the end of the training."""
    checkpoint = str(trained.root / "out" / "checkpoints" / "step_00000002.pt")
    options = ("MODEL.WEIGHTS", checkpoint)
    assert main(trained.arguments("eval", *options, flags=("--eval-only",))) == 0
    assert trained.results("eval") == trained.results("out")


def test_expected_results_decide_the_status(trained: TinyRun, caplog) -> None:
    accuracy = trained.results("out")["summary"]["pACC"]

    def status(value: float, metric: str = "pACC") -> int | None:
        row = [trained.dataset, metric, value, 0.01]
        return main(only(trained, "TEST.EXPECTED_RESULTS", repr([row])))

    assert status(accuracy + 0.005) == 0
    caplog.clear()
    with caplog.at_level(logging.ERROR, logger="frozenseg"):
        assert status(accuracy + 0.02) == 1
    assert "pACC is" in caplog.text
    assert status(0.0, "mIoU-unseen") == 1  # there is no unseen class: not a number
    assert trained.results("eval")["summary"]["mIoU-unseen"] is None
    (trained.root / "eval" / "results.json").unlink()
    with pytest.raises(UserError, match=r"has no pACCC; did you mean pACC"):
        status(1.0, "pACCC")
    assert not (trained.root / "eval" / "results.json").exists()  # known before the first image


def test_a_recipes_expected_results_do_not_end_a_run_on_other_data(
    trained: TinyRun, caplog
) -> None:
    row = ["small_world_val", "PQ", 66.5, 0.3]
    assert main(only(trained, "TEST.EXPECTED_RESULTS", repr([row]))) == 0
    assert "PQ of small_world_val will not be compared" in caplog.text
    assert trained.results("eval")["summary"]["PQ"] >= 0


def test_expected_results_are_checked_before_the_first_step(run: TinyRun) -> None:
    row = [run.dataset, "PQQ", 1.0, 0.1]
    with pytest.raises(UserError, match="has no PQQ"):
        main(run.arguments("out", "TEST.EXPECTED_RESULTS", repr([row])))
    assert not (run.root / "out" / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["results.json", "model_final.safetensors"])
def test_what_cannot_be_written_is_known_before_the_first_step(run: TinyRun, name: str) -> None:
    (run.root / "out" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=f"{name}: cannot be written"):
        main(run.arguments("out"))
    assert not (run.root / "out" / "metrics.jsonl").exists()


def test_results_are_shown_though_a_file_cannot_be_written(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The weights' disk is full at the end: the table is printed and the other files are there."""

    def full(*_: object) -> None:
        raise WriteError("weights: no room")

    monkeypatch.setattr(training._Run, "_write_weights", full)
    with caplog.at_level(logging.INFO, logger="frozenseg"):
        with pytest.raises(UserError, match="weights: no room"):
            main(run.arguments("out", "SOLVER.MAX_ITER", "2"))
    assert "mIoU" in caplog.text
    assert (run.root / "out" / "results.json").is_file()
    assert (run.root / "out" / "curves.png").is_file()


def test_recall_and_augmentation(trained: TinyRun) -> None:
    recall = ("MODEL.MASK_FORMER.TEST.RECALL_ON", "True")
    sizes = ("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64, 96)")
    assert main(only(trained, *recall, *sizes)) == 0
    plain, augmented = (trained.results(name)["summary"] for name in ("out", "eval"))
    assert augmented["PQ"] == plain["PQ"]
    assert augmented["fwIoU"] != plain["fwIoU"]
    assert 0 <= augmented["S_Recall@IoU=0.50"] <= 100


def test_augmentation_with_the_plain_view_alone_changes_nothing(trained: TinyRun) -> None:
    plain_view = ("TEST.AUG.MIN_SIZES", "(64,)", "TEST.AUG.FLIP", "False")
    limit = ("TEST.AUG.MAX_SIZE", "128")
    assert main(only(trained, "TEST.AUG.ENABLED", "True", *plain_view, *limit)) == 0
    assert trained.results("eval") == trained.results("out")


def test_a_run_is_not_overwritten_by_chance(trained: TinyRun) -> None:
    with pytest.raises(UserError, match="continue it with --resume"):
        main(trained.arguments("out"))


def test_a_refused_command_leaves_the_settings_of_the_weights(trained: TinyRun) -> None:
    path = trained.root / "out" / "config.yaml"
    before = path.read_bytes()
    with pytest.raises(UserError, match="do not fit the model"):
        main(trained.arguments("out", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "12",
                               flags=("--resume",)))  # fmt: skip
    assert path.read_bytes() == before and not path.with_name("config.yaml.1").exists()


def test_other_classes_do_not_resume(run: TinyRun) -> None:
    """The classes that the run has written into config.yaml would still be the seen ones."""
    assert main(run.arguments("out", "DATASETS.TEST", "()")) == 0
    annotation = run.root / "data" / "panoptic.json"
    annotation.write_text(annotation.read_text().replace('"grass"', '"moss"'))
    message = "TRAIN_VOCABULARY holds the classes of another training, and 'moss' of DATASETS.TRAIN"
    config = str(run.root / "out" / "config.yaml")
    with pytest.raises(UserError, match=message):
        main(["--config-file", config, "--resume", "SOLVER.MAX_ITER", "6"])


def test_swapped_classes_do_not_resume(run: TinyRun) -> None:
    """All of them are still seen classes, so only their order tells."""
    assert main(run.arguments("out", "DATASETS.TEST", "()")) == 0
    annotation = run.root / "data" / "panoptic.json"
    content = json.loads(annotation.read_text())
    first, second = content["categories"][:2]
    first["name"], second["name"] = second["name"], first["name"]
    annotation.write_text(json.dumps(content))
    message = "class 0 of DATASETS.TRAIN is now 'cat'; when the run began, it was 'dog' "
    config = str(run.root / "out" / "config.yaml")
    with pytest.raises(UserError, match=message):
        main(["--config-file", config, "--resume", "SOLVER.MAX_ITER", "6"])


def test_another_seed_does_not_resume(trained: TinyRun) -> None:
    with pytest.raises(UserError, match="SEED 8: the run to be resumed was started with 7"):
        main(trained.arguments("out", "SEED", "8", flags=("--resume",)))
    assert main(trained.arguments("out", "SEED", "-1", "SOLVER.MAX_ITER", "3",
                                  flags=("--resume",))) == 0  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("DATASETS.TRAIN", "('coco_2017_trian_panoptic',)"), "did you mean coco_2017_train"),
        (("DATASETS.TEST", "('nothing',)"), "nothing: no such dataset"),
        (("DATASETS.TRAIN", "('coco_panoptic:no.json:png:images',)"), r"no\.json: no such file"),
        (("DATASETS.TRAIN", "()"), "DATASETS.TRAIN is empty"),
        (("SOLVER.ACCUMULATE", "3"), "IMS_PER_BATCH 2 cannot be shared by 1 processes"),
        (("INPUT.IMAGE_SIZE", "65"), "IMAGE_SIZE 65: must be a multiple of 32"),
        (("SOLVER.EMA", "1.5"), "EMA 1.5: must be at least 0 and below 1"),
        (
            ("MODEL.ALLOW_RANDOM_WEIGHTS", "False"),
            "CLIP_PRETRAINED_WEIGHTS '': no weights.*MODEL.ALLOW_RANDOM_WEIGHTS True",
        ),
        (("MODEL.WEIGHTS", "none.safetensors"), "none.safetensors: no such file"),
        (("SOLVER.MAX_ITRE", "3"), "did you mean SOLVER.MAX_ITER"),
        (("OUTPUT_DIR", "/proc/nowhere"), "/proc/nowhere: cannot be written"),
        (("DATASETS.VOCABULARY", "absent.txt"), "vocabulary absent.txt: cannot be read"),
    ],
)
def test_bad_input(run: TinyRun, options: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(run.arguments("out", *options))
    assert not (run.root / "out" / "checkpoints").exists()


def test_vocabulary_of_another_length(run: TinyRun) -> None:
    words = run.root / "words.txt"
    words.write_text("cat\ndog\n")
    with pytest.raises(UserError, match="3 classes, but the vocabulary has 2"):
        main(run.arguments("out", "DATASETS.VOCABULARY", str(words)))


def test_broken_image_ends_the_run_with_its_name(run: TinyRun) -> None:
    for path in (run.root / "data" / "images").glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"images/\d\.png.*there is no checkpoint yet"):
        main(run.arguments("out"))


def test_a_data_worker_that_dies_leaves_the_checkpoint_and_says_how_to_go_on(
    run: TinyRun, monkeypatch
) -> None:
    read, made = dataset.load_image, multiprocessing.Value("i", 0)

    def deadly(record: Record) -> np.ndarray:
        with made.get_lock():
            made.value += 1
            if made.value > 12:  # a few steps are done, and what was made ahead of them is gone
                os.kill(os.getpid(), signal.SIGKILL)
        return read(record)

    options = ("DATALOADER.NUM_WORKERS", "1", "SOLVER.MAX_ITER", "20", "DATASETS.TEST", "()")
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "load_image", deadly)
        with pytest.raises(UserError, match=r"worker.*(killed|died).*--resume"):
            main(run.arguments("out", *options))
    assert list((run.root / "out" / "checkpoints").iterdir())
    assert main(run.arguments("out", *options, "SOLVER.MAX_ITER", "6", flags=("--resume",))) == 0
    assert run.rows("out")[-1]["step"] == 6


@pytest.mark.parametrize("options", [[], ["MODEL.WEIGHTS", "published.pth"]])
def test_a_training_says_that_a_published_name_is_its_recipe_alone(
    options: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = training.TrainingResult(
        output=Path("output"), step=0, finished=False, weights=None, scores={}
    )
    monkeypatch.setattr(train_net, "train", lambda cfg, resume: stopped)
    train_net.work(Request("fc-clip-convnext-large", options, resume=False, eval_only=False))
    told = "add MODEL.WEIGHTS pretrained_checkpoint/fc_clip_convnext_large.pth" in caplog.text
    assert told == (not options)


def test_evaluation_needs_weights(run: TinyRun) -> None:
    with pytest.raises(UserError, match="MODEL.WEIGHTS is empty"):
        main(run.arguments("out", "MODEL.ALLOW_RANDOM_WEIGHTS", "False", flags=("--eval-only",)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--num-gpus", "0"), "must be at least 1"),
        (("--num-machines", "2"), "several machines need the address"),
        (("--num-machines", "2", "--machine-rank", "2"), "--machine-rank 2: must lie in 0-1"),
    ],
)
def test_bad_layout(run: TinyRun, flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(run.arguments("out", flags=flags))


def test_one_line_and_status_2(run: TinyRun, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        sys, "argv", ["train_net.py", *run.arguments("out", "DATASETS.TEST", "('x',)")]
    )
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: x: no such dataset") and "Traceback" not in said


@pytest.mark.parametrize(
    ("family", "names"),
    [((), ["FrozenClip", "ImageEncoderViT"]), (FUSIONER, ["ClipVitPatches"])],
    ids=["FrozenSeg", "Fusioner"],
)
def test_training_compiles_frozen_encoders_alone(run: TinyRun, monkeypatch, family, names) -> None:
    """With a compiler that changes nothing; evaluations between the steps use what it made."""
    compiled: list[str] = []
    called: list[tuple[str, bool]] = []

    def compile_nothing(method, dynamic):
        name = type(method.__self__).__name__
        compiled.append(name)

        def call(*arguments):
            called.append((name, torch.is_grad_enabled()))
            return method(*arguments)

        return call

    options = (*family, "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "1")
    assert main(run.arguments("plain", *options)) == 0
    monkeypatch.setattr(torch, "compile", compile_nothing)
    assert main(run.arguments("compiled", *options, "MODEL.COMPILE", "True")) == 0
    assert compiled == names
    # two steps, and two evaluations of five images; a graph is made for either state of gradients
    assert sorted(called) == sorted((name, False) for name in names for _ in range(2 + 2 * 5))
    assert run.rows("plain") == run.rows("compiled")
    names_of_weights = run.weights("plain").keys()
    assert run.weights("compiled").keys() == names_of_weights


@pytest.mark.slow
def test_a_run_with_compiled_encoders_learns_the_same(run: TinyRun) -> None:
    """With the real compiler, over two evaluations at other sizes, stopped and gone on with."""
    options = ("SOLVER.MAX_ITER", "3", "TEST.EVAL_PERIOD", "1", "SOLVER.STEPS", "[]")
    assert main(run.arguments("plain", *options)) == 0
    on = ("MODEL.COMPILE", "True")
    assert main(run.arguments("compiled", *options, *on, "SOLVER.MAX_ITER", "2")) == 0
    assert main(run.arguments("compiled", *options, *on, flags=("--resume",))) == 0
    plain, found = run.losses("plain"), run.losses("compiled")
    assert [row["step"] for row in found] == [1, 2, 3]
    assert [row["total_loss"] for row in found] == pytest.approx(
        [row["total_loss"] for row in plain], rel=1e-3
    )


def test_compiling_in_training_needs_a_compiler(run: TinyRun, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"MODEL\.COMPILE: a C\+\+ compiler is needed"):
        main(run.arguments("out", "MODEL.COMPILE", "True"))
