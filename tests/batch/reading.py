"""Reading by threads against reading by processes: python -m tests.batch.reading [IMAGES].

Generated JPEGs of 480 x 640 pixels are read and resized to 800 x 1066 beside a device that is
emulated: for a batch, the main thread starts many small kernels, as a model in eager mode does, and
then waits. What it waits for Python's lock while it starts them is the cost of threads; what both
sides spend on sending pixels is that of processes. Only /proc says the former, on Linux.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from frozenseg.data.image_inputs import to_array
from frozenseg.data.transforms import resize_to_tensor
from frozenseg.runtime.background import map_ahead

BATCH, KERNELS, SECONDS = 8, 3000, 0.2  # for a batch: 40 images/s, which one core can read
SHORT, LONG = 800, 1333


def prepare(path: str) -> tuple[np.ndarray, Tensor]:
    pixels = to_array(path)
    return pixels, resize_to_tensor(pixels, SHORT, LONG)


class Files(Dataset[tuple[np.ndarray, Tensor]]):
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Tensor]:
        return prepare(self.paths[index])


def as_it_is(item: Any) -> Any:
    return item


def by_processes(paths: list[str], count: int) -> DataLoader[Any]:
    return DataLoader(
        Files(paths),
        batch_size=None,
        num_workers=count,
        prefetch_factor=BATCH,
        collate_fn=as_it_is,
        multiprocessing_context="spawn",
    )


def write_jpegs(folder: Path, count: int) -> list[str]:
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((640, 480))) + rng.normal(0, 6, (480, 640, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{number}.jpg", quality=90)
    return sorted(map(str, folder.glob("*.jpg")))


def start_kernels() -> float:
    """Start the kernels of a batch; returns the seconds in which the lock was waited for."""
    before, start = _scheduled(), time.perf_counter()
    small = torch.zeros(8)
    for _ in range(KERNELS):
        small = small + 1
    return time.perf_counter() - start - (_scheduled() - before)


def _scheduled() -> float:
    """Seconds in which this thread ran, or was ready to and had no core."""
    return sum(map(int, Path("/proc/thread-self/schedstat").read_text().split()[:2])) / 1e9


def _used(workers: list[Any]) -> float:
    """Seconds of the processor in this process and the workers."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ticks = (Path(f"/proc/{w.pid}/stat").read_text().rpartition(")")[2].split() for w in workers)
    return own.ru_utime + own.ru_stime + sum((int(t[11]) + int(t[12])) / 100 for t in ticks)


def measure(name: str, images: Iterable[Any], count: int) -> None:
    stream = iter(images)
    for _ in range(2 * BATCH):  # until all workers are there
        next(stream)
    workers, waited = getattr(stream, "_workers", []), 0.0
    clock, used = time.perf_counter(), _used(workers)
    for done in range(1, count + 1):
        next(stream)
        if done % BATCH == 0:
            start = time.perf_counter()
            waited += start_kernels()
            time.sleep(max(0.0, SECONDS - (time.perf_counter() - start)))
    spent = (time.perf_counter() - clock, _used(workers) - used, waited)
    clock, used, waited = (1000 * seconds / count for seconds in spent)
    sys.stdout.write(
        f"{name}: {clock:.1f} ms an image by the clock, {used:.1f} of the processor, {waited:.2f} "
        "of waiting for the lock\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    with tempfile.TemporaryDirectory() as folder:
        files = write_jpegs(Path(folder), 24)
        paths = (files * (count // 24 + 6))[: count + 6 * BATCH]
        measure("nothing to read", [prepare(path) for path in files] * (count // 24 + 6), count)
        for number in (1, 2, 4):
            ahead = map_ahead(prepare, paths, workers=number, depth=number + BATCH)
            measure(f"{number} threads", ahead, count)
        for number in (1, 2):
            measure(f"{number} processes", by_processes(paths, number), count)
