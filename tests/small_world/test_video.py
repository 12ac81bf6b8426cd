"""Clips are reproducible, and their ground truth is exact and consistent over time."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from frozenseg.data.benchmarks import load_records
from frozenseg.evaluation.tasks import VideoEvaluator
from frozenseg.small_world.export import export_split
from frozenseg.small_world.scene import MIN_VISIBLE_AREA
from frozenseg.small_world.video import ClipOptions, Motion, make_clip
from frozenseg.structures import PanopticResult, Prediction, Segment

SHORT = ClipOptions(frames=4)


@pytest.mark.parametrize("motion", get_args(Motion))
def test_a_clip_is_always_the_same(motion: Motion) -> None:
    one, again = make_clip(3, motion, 1, SHORT), make_clip(3, motion, 1, SHORT)
    assert np.array_equal(one.images, again.images) and np.array_equal(one.ids, again.ids)
    assert one.images.shape == (4, 144, 192, 3) and one.ids.shape == (4, 144, 192)
    assert [region.id for region in one.regions] == list(range(1, len(one.regions) + 1))
    other = make_clip(3, motion, 2, SHORT)
    assert not np.array_equal(one.images, other.images)
    for region in one.regions:
        areas = (one.ids == region.id).sum((1, 2))
        assert not region.is_thing or all((areas == 0) | (areas >= MIN_VISIBLE_AREA))


def test_a_crossing() -> None:
    """Two things pass each other; the first is covered in the middle and visible at the ends."""
    clip = make_clip(0, "crossing", 1, ClipOptions(frames=15))
    behind, before = (region.id for region in clip.regions if region.is_thing)
    places = {number: [] for number in (behind, before)}
    for number, found in places.items():
        found += [float(np.nonzero(ids == number)[1].mean()) for ids in clip.ids]
    assert places[behind][0] < places[before][0] and places[behind][-1] > places[before][-1]
    areas = (clip.ids == behind).sum((1, 2))
    assert areas[7] < 0.6 * areas[0] and areas[-1] == pytest.approx(areas[0], rel=0.05)
    assert np.ptp((clip.ids == before).sum((1, 2))) < 0.1 * areas[0]


def test_a_panned_scene_only_shifts() -> None:
    clip = make_clip(0, "panned", 0, ClipOptions(frames=5))
    shift = round(0.8 * 192 / 4)
    same = clip.ids[0, :, shift:] == clip.ids[1, :, :-shift]
    assert same.mean() > 0.98  # except for what comes in as a sliver
    assert np.abs(clip.images[0, :, shift:].astype(int) - clip.images[1, :, :-shift]).mean() < 6


def test_things_enter_and_leave() -> None:
    seen = set()
    for index in range(4):
        clip = make_clip(1, "moving", index, ClipOptions(frames=5, speeds=(0.15, 0.3)))
        for region in clip.regions:
            there = (clip.ids == region.id).any((1, 2))
            seen.add((bool(there[0]), bool(there[-1])))
    assert {(True, True), (False, True), (True, False)} <= seen


def test_clips_on_disk_are_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth against itself is perfect, with the identities of its clips."""
    export_split(
        tmp_path / "small_world", "video_val", count=27, seed=0, processes=1, progress=lambda n: n
    )
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    records, categories = load_records("small_world_video_val")
    names = [Path(record.image_path).name for record in records]
    assert names[0] == "clip_0000_000000.jpg" and names[26] == "clip_0001_000002.jpg"
    task = VideoEvaluator(categories, [True] * len(categories.names))
    for record in reversed(records):
        task.update(record, Prediction((144, 192), panoptic=_truth(record)))
    summary = task.summary(task.metric.compute())
    assert set(summary) == set(task.names)
    assert summary["untracked VPQ"] == summary["untracked STQ"] == 100
    assert summary["VPQ"] > 95 and summary["STQ"] > 95


def _truth(record: object) -> PanopticResult:
    from frozenseg.data.annotations import load_panoptic

    ids, found = load_panoptic(record)
    segments = []
    for number, label in zip(found.ids.tolist(), found.class_ids.tolist(), strict=True):
        y, x = np.nonzero(ids == number)
        box = (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
        thing = bool(load_records("small_world_video_val")[1].is_thing[label])
        segments.append(Segment(number, label, str(label), thing, 0.9, len(x), box))
    return PanopticResult(ids, segments)
