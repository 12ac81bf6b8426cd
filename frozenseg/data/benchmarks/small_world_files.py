"""Where the files of the small world lie, for its rows among the benchmarks.

`frozenseg.small_world` writes them. This module keeps the benchmarks independent of that package.
"""

from pathlib import Path
from typing import NamedTuple


class WorldFiles(NamedTuple):
    """The paths of one split, by the fields of `Benchmark` that name them, and its settings."""

    images: Path
    annotations: Path
    labels: Path
    semantic_labels: Path
    instances: Path
    settings: Path


def small_world_files(root: Path, split: str) -> WorldFiles:
    """Return the paths of a split below `root`, whether or not they exist."""
    names = ("images", "panoptic.json", "panoptic", "semantic", "instances.json", "world.json")
    return WorldFiles(*(root / split / name for name in names))
