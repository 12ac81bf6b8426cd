"""The benchmark runs and counts agreeing masks right."""

import json
from pathlib import Path

import numpy as np
import pytest

from frozenseg.devtools.commands.benchmark_proposals import agreeing, main


def test_masks_agree_if_they_are_nearly_equal() -> None:
    masks = np.zeros((3, 20, 20), bool)
    masks[0, :10], masks[1, 10:], masks[2, :, :10] = True, True, True
    nearly = masks[:2].copy()
    nearly[1, 19, 19] = False  # IoU 199 / 200
    assert agreeing(masks, nearly) == 2
    assert agreeing(masks, masks[:0]) == agreeing(masks[:0], masks) == 0
    nearly[1, 15:] = False
    assert agreeing(masks, nearly) == 1


@pytest.mark.slow
def test_it_reports_both_times_and_equal_masks(tmp_path: Path) -> None:
    few = ["--images", "1", "--repeats", "1", "--points-per-side", "6", "--predicted-iou", "0.4"]
    main([*few, "--stability", "0.5", "--json", str(tmp_path / "out.json")])
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["agree"] == report["masks"] == report["masks_ours"] > 0
    assert report["ratio"] > 0 and report["ours_s"] > 0
