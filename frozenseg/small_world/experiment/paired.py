"""Differences between two arms, seed by seed, with an interval from the paired bootstrap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from frozenseg.evaluation.tasks import Summary
from frozenseg.small_world.experiment.scenes import SceneCounts

CHOICES = 2000  # bootstrap samples of seeds and scenes
Scored = tuple[Summary, SceneCounts]


@dataclass(frozen=True)
class Difference:
    """What an arm gains over another one, in points.

    per_seed: the difference of each seed.
    low, high: the 95 % confidence interval of the mean over all seeds and scenes; NaN with one
        seed.
    over_scenes: whether scenes were resampled too, and not only seeds.
    """

    per_seed: tuple[float, ...]
    low: float
    high: float
    over_scenes: bool

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return float(np.mean(self.per_seed))

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def differences(
    arm: Sequence[Scored], against: Sequence[Scored], metrics: Sequence[str], seed: int = 0
) -> dict[str, Difference]:
    """Compare two arms by each metric.

    arm, against: the scores of each seed, for the same seeds in the same order and on the same
    scenes. seed: of the bootstrap samples. The bootstrap draws seeds with replacement, and also
    scenes if the metric can be computed from them. Both arms get the same draw, so that what a seed
    or a scene does to both of them cancels out (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 8). Samples of a few seeds vary too little, so the part of the mean's
    variation that comes from seeds is widened as by Student's t (Hesterberg, What Teachers Should
    Know about the Bootstrap, The American Statistician, 2015).
    """
    chance = np.random.default_rng(seed)
    seeds, scenes = len(arm), arm[0][1].scenes
    drawn = chance.integers(seeds, size=(CHOICES, seeds))
    weights = np.zeros((CHOICES, scenes))
    if scenes:
        weights += chance.multinomial(scenes, np.full(scenes, 1 / scenes), size=CHOICES)
    pairs = list(zip(arm, against, strict=True))
    resampled = [(one.scores(weights), other.scores(weights)) for (_, one), (_, other) in pairs]
    found = {}
    for metric in metrics:
        per_seed = tuple(first[metric] - second[metric] for (first, _), (second, _) in pairs)
        over_scenes = metric in resampled[0][0]
        if over_scenes:
            gains = np.stack([one[metric] - other[metric] for one, other in resampled])
        else:
            gains = np.repeat(np.array(per_seed)[:, None], CHOICES, axis=1)  # (seeds, choices)
        by_scenes = gains.mean(0)
        by_seeds = gains[drawn.T, np.arange(CHOICES)].mean(0) - by_scenes
        means = by_scenes + _widening(seeds) * by_seeds
        known = means[~np.isnan(means)]
        low, high = np.percentile(known, [2.5, 97.5]) if seeds > 1 and len(known) else [np.nan] * 2
        found[metric] = Difference(per_seed, float(low), float(high), over_scenes)
    return found


def _widening(seeds: int) -> float:
    """Return the factor by which a bootstrap of so few seeds is too narrow for Gaussian gains."""
    if seeds < 2:
        return 1.0
    upper = 0.975
    few = np.sqrt(seeds / (seeds - 1)) * stats.t.ppf(upper, seeds - 1)
    return float(few / stats.norm.ppf(upper))
