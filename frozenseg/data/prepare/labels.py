"""Convert published label maps to label maps of class ids, one file each."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frozenseg.data.prepare.options import PreparationOptions, remove_others, write_picture


@dataclass(frozen=True)
class LabelConversion:
    """How the label maps of one dataset are made; `check_dataset` repeats this to compare them.

    target: folder below the data root, with a folder for each split.
    sources: takes (root, split) and returns {stem: published file}.
    convert: takes a published file and returns (H, W) class ids, or `ignore` where there is none.
    ignore: the value of unlabelled pixels.
    suffix: the suffix of the files that are written.
    full_size: converts like `convert`, but in the original size; None if `convert` never shrinks.
    """

    target: str
    sources: Callable[[Path, str], dict[str, Path]]
    convert: Callable[[Path], np.ndarray]
    ignore: int = 255
    suffix: str = ".png"
    full_size: Callable[[Path], np.ndarray] | None = None

    def write(self, root: Path, split: str, options: PreparationOptions) -> None:
        """Write the label maps of a split that do not exist yet, or all of them with `again`.

        With `again`, label maps that are no longer published are removed.
        """
        folder = root / self.target / split
        jobs = [
            (source, folder / f"{stem}{self.suffix}")
            for stem, source in self.sources(root, split).items()
        ]
        if options.again:
            remove_others([target for _, target in jobs])
        jobs = [job for job in jobs if options.must_write(job[1])]
        convert = self.full_size if self.full_size and options.full_size else self.convert
        options.map(functools.partial(_write, convert), jobs, f"{self.target} {split}")


def _write(convert: Callable[[Path], np.ndarray], job: tuple[Path, Path]) -> None:
    source, target = job
    write_picture(target, convert(source))


def lookup(labels: np.ndarray, classes: dict[int, int], ignore: int) -> np.ndarray:
    """Map published labels to class ids; labels that are not in `classes` become `ignore`."""
    largest = max(int(labels.max(initial=0)), max(classes))
    table = np.full(largest + 1, ignore, dtype=np.uint8 if ignore < 256 else np.uint16)
    table[list(classes)] = list(classes.values())
    return table[labels]
