"""Average the scores of the folds of a benchmark."""

import math
from collections.abc import Iterable, Mapping

from frozenseg.data.benchmarks import BENCHMARKS
from frozenseg.evaluation.tasks import Summary


def by_family(names: Iterable[str]) -> dict[str, list[str]]:
    """The data sets of each benchmark of several, e.g. those of the folds of PASCAL-5i."""
    families: dict[str, list[str]] = {}
    for name in names:
        family = BENCHMARKS[name].family if name in BENCHMARKS else ""
        if family:
            families.setdefault(family, []).append(name)
    return families


def family_means(summaries: Mapping[str, Summary]) -> dict[str, Summary]:
    """{"pascal5i, mean of 4": metrics} of what has been evaluated at least twice.

    A metric that is absent from one of the sets, or not a number there (no such class), has no
    mean: NaN.
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
