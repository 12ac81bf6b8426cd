"""The paired bootstrap on differences whose truth is known."""

import numpy as np
import pytest

from frozenseg.small_world.experiment.paired import differences
from frozenseg.small_world.experiment.scenes import SceneCounts

SEEN = np.array([True])


def run(hits: np.ndarray) -> tuple[dict[str, float], SceneCounts]:
    """Scenes of 100 pixels of one class, of which `hits` (S,) are right; AP is the score of the
    first scene."""
    semantic = np.stack([np.full(len(hits), 100.0), hits, hits])[:, :, None]
    counts = SceneCounts(
        SEEN, np.zeros((4, 0, 1)), semantic, np.zeros((2, 0, 4)), np.zeros((2, 0, 1))
    )
    summary = {"mIoU": float(hits.mean()), "AP": float(hits[0])}
    return summary, counts


def test_what_both_arms_share_cancels_out() -> None:
    chance = np.random.default_rng(0)
    easy = chance.integers(0, 60, size=40)  # scenes differ widely
    luck = [0, 20, 5, 35]  # and so do seeds
    against = [run(easy + seed) for seed in luck]
    arm = [run(easy + seed + 2) for seed in luck]
    found = differences(arm, against, ["mIoU", "AP"])
    for key in ("mIoU", "AP"):
        assert found[key].per_seed == pytest.approx([2] * 4)
        assert (found[key].low, found[key].high) == pytest.approx((2, 2))
        assert found[key].decided
    assert found["mIoU"].over_scenes and not found["AP"].over_scenes
    spread = np.std([summary["mIoU"] for summary, _ in arm], ddof=1)
    assert spread > 10  # against which a gain of 2 could not be seen


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
@pytest.mark.parametrize("metric", ["AP", "mIoU"])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds: int, metric: str) -> None:
    """Also with few seeds, where the plain bootstrap misses it in every second experiment."""
    chance = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        means = 50 + chance.normal((1, 0), 3, size=(seeds, 2))  # of the arms, by seed
        scenes = means[..., None] + chance.normal(0, 2, size=(1, 2, 20))
        arm, against = zip(*[[run(hits) for hits in pair] for pair in scenes], strict=True)
        if metric == "AP":
            arm, against = ([run(hits[:1]) for hits in of_arm] for of_arm in means.T[..., None])
        gain = differences(arm, against, [metric])[metric]
        inside += gain.low <= 1 <= gain.high
    assert 0.91 <= inside / 200 <= 0.995


def test_noise_is_not_decided_and_one_seed_has_no_interval() -> None:
    hits = np.random.default_rng(2).integers(20, 80, size=(2, 6, 30))
    arm, against = ([run(row) for row in rows] for rows in hits)
    gain = differences(arm, against, ["mIoU"])["mIoU"]
    assert gain.low < 0 < gain.high and not gain.decided
    single = differences(arm[:1], against[:1], ["mIoU"])["mIoU"]
    assert np.isnan(single.low) and not single.decided
