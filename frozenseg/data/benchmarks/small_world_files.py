"""Where the files of the small world lie, for its rows among the benchmarks.

`frozenseg.small_world` writes them; nothing else of the product needs to know that package.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WorldFiles:
    """The paths of one split, as a row of `frozenseg.data.benchmarks` names them."""

    images: Path
    annotations: Path
    labels: Path
    semantic_labels: Path
    instances: Path
    settings: Path


def small_world_files(root: Path, split: str) -> WorldFiles:
    """Where a split lies under `root`, written or not."""
    folder = root / split
    return WorldFiles(
        images=folder / "images",
        annotations=folder / "panoptic.json",
        labels=folder / "panoptic",
        semantic_labels=folder / "semantic",
        instances=folder / "instances.json",
        settings=folder / "world.json",
    )
