"""Average the scores of the folds of a benchmark."""

import math
from collections.abc import Iterable, Mapping

from frozenseg.data.benchmarks import BENCHMARKS
from frozenseg.evaluation.tasks import Summary


def by_family(names: Iterable[str]) -> dict[str, list[str]]:
    """Group data sets by the benchmark whose folds they are, e.g. those of PASCAL-5i."""
    families: dict[str, list[str]] = {}
    for name in names:
        family = BENCHMARKS[name].family if name in BENCHMARKS else ""
        if family:
            families.setdefault(family, []).append(name)
    return families


def family_means(summaries: Mapping[str, Summary]) -> dict[str, Summary]:
    """Average the metrics over the folds of each benchmark that has at least two of them here.

    Returns e.g. {"pascal5i, mean of 4": metrics}. A metric that is absent from one of the folds, or
    NaN there because no image has such a class, is NaN in the mean.
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
