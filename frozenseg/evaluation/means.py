"""Average the scores of the folds of a benchmark."""

import math
from collections.abc import Iterable, Mapping

from frozenseg.data.benchmarks import BENCHMARKS
from frozenseg.evaluation.tasks import Summary


def by_family(names: Iterable[str]) -> dict[str, list[str]]:
    """Return {benchmark: the data sets among `names` that are its folds}, e.g. of PASCAL-5i."""
    families: dict[str, list[str]] = {}
    for name in names:
        family = BENCHMARKS[name].family if name in BENCHMARKS else ""
        if family:
            families.setdefault(family, []).append(name)
    return families


def family_means(summaries: Mapping[str, Summary]) -> dict[str, Summary]:
    """Average the metrics over the folds of each benchmark of which at least two are given.

    Returns e.g. {"pascal5i, mean of 4": metrics}. The mean of a metric is NaN if a fold does not
    have the metric, or if it is NaN in a fold because no image has such a class.
    """
    means = {}
    for family, names in by_family(summaries).items():
        if len(names) > 1:
            rows = [summaries[name] for name in names]
            keys = dict.fromkeys(key for row in rows for key in row)
            means[f"{family}, mean of {len(names)}"] = {
                key: sum(row.get(key, math.nan) for row in rows) / len(rows) for key in keys
            }
    return means
