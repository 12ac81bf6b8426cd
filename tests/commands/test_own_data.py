"""Own data in each form: checked, looked at, trained on and evaluated by the commands alone."""

import json
import logging
from pathlib import Path

import pytest
import torch

from frozenseg.build.prediction import load
from frozenseg.commands import check_dataset, view_samples
from frozenseg.commands.train_net import main
from frozenseg.data.benchmarks import load_records
from frozenseg.text.vocabulary import Vocabulary
from tests.data.own_forms import write_forms
from tests.engine.tiny import CONFIG

SCENES = 36
# What the truth of each form can be scored for.
SCORES = {
    "coco_panoptic": ("PQ", "AP", "box AP", "mIoU"),
    "coco_instances": ("AP", "box AP"),
    "label_maps": ("mIoU",),
    "ultralytics": ("AP", "box AP"),
    "yaml": ("PQ", "AP", "box AP", "mIoU"),
}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_forms(tmp_path_factory.mktemp("own"), SCENES)


@pytest.mark.slow
@pytest.mark.parametrize("form", SCORES)
def test_30_steps_and_an_evaluation(
    form: str, names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path / "cache"))
    config, name = tmp_path / "tiny.yaml", names[form]
    config.write_text(CONFIG)
    data = ["DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)"]
    assert check_dataset.main([name]) == 0
    sheet = tmp_path / "samples.png"
    shown = ["--config-file", str(config), "--dataset", name, "--count", "2", "--output"]
    assert view_samples.main([*shown, str(sheet)]) is None and sheet.is_file()
    steps = ["SOLVER.MAX_ITER", "30", "SOLVER.STEPS", "(25,)", "SOLVER.CHECKPOINT_PERIOD", "30"]
    with caplog.at_level(logging.INFO):
        assert main(
            ["--config-file", str(config), "OUTPUT_DIR", str(tmp_path / "out"), *data, *steps]
        ) == 0  # fmt: skip
    _, categories = load_records(name)
    count = len(categories)
    assert f"classes: {count}, from" in caplog.text and f"; {count} seen" in caplog.text
    scores = json.loads((tmp_path / "out" / "results.json").read_text())[name]["summary"]
    assert {key for key in ("PQ", "AP", "box AP", "mIoU") if key in scores} == {*SCORES[form]}
    assert all(0 <= scores[key] <= 100 for key in SCORES[form])
    segmenter = load(tmp_path / "out")  # knows its classes without the data
    words = Vocabulary.parse([*categories.names[:2], "lorry"])
    assert segmenter.embed(words).seen.tolist() == [True, True, False]
