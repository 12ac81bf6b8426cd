"""The settings of predictions: files of names and templates count by what is in them."""

from pathlib import Path

import pytest
import torch

from frozenseg.build.prediction_settings import load_with_settings
from frozenseg.encoders.sam import build_sam_model
from tests.engine.tiny import CONFIG

SEEN = ["DATASETS.TRAIN_VOCABULARY", "small_world_seen"]


def test_lists_and_templates_count_by_their_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONFIG)

    def settings(*options: str) -> dict[str, str]:
        return load_with_settings("tiny.yaml", options=options)[1]

    def written(text: str, *options: str) -> dict[str, str]:
        Path("list.txt").write_text(text)
        return settings(*options)

    plain = ("DATASETS.TRAIN", "('small_world_train',)", "DATASETS.TRAIN_VOCABULARY", "")
    of_set = (*plain, "DATASETS.VOCABULARIES", "('small_world_train=./list.txt',)")
    named = ("DATASETS.TRAIN_VOCABULARY", "./list.txt")
    for options in (of_set, named):
        first = written("circle\nsky", *options)
        assert first == written("sky\ncircles", *options) != written("zebra\nyak", *options)
        assert first["seen classes"] != settings(*plain).get("seen classes")
    templates = (*plain, "MODEL.TEXT.TEMPLATES", "list.txt")
    assert written("a {}", *templates) != written("the {}", *templates)
    # A folder of an earlier version can be continued where nothing comes from a file.
    for name in ("vild14", "clip1"):
        found = settings(*plain, "MODEL.TEXT.TEMPLATES", name)
        assert not {"seen classes", "templates"} & found.keys()


def test_another_sam_for_the_proposals_counts_by_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONFIG)

    def settings(file: str, weights: dict[str, torch.Tensor]) -> dict[str, str]:
        torch.save(weights, file)
        masks = ["TEST.USE_SAM_MASKS", "True", "TEST.PKL_SAM_MODEL_NAME", "tiny"]
        options = [*masks, "TEST.SAM_MASKS.WEIGHTS", f"./{file}"]
        return load_with_settings("tiny.yaml", options=[*SEEN, *options])[1]

    first, second = (build_sam_model("tiny").state_dict() for _ in range(2))
    found = settings("sam.pth", first)
    assert found == settings("moved.pth", first) != settings("sam.pth", second)
    assert "weights of the proposals" not in load_with_settings("tiny.yaml", options=SEEN)[1]
