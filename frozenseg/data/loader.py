"""Samplers and loaders: an endless, seeded order for training, exact shares for evaluation.

Both loaders yield `list[Sample]`: test images differ in size, and padding is the model's affair.
"""

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from frozenseg.data.dataset import ORDER_STREAM, Sample, SampleIndex, SegmentationDataset
from frozenseg.data.transforms import seeded_generator
from frozenseg.errors import UserError

_DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEATH_MESSAGES = ("DataLoader worker (pid", "Pin memory thread exited")  # as torch words them


class TrainingSampler(Sampler[SampleIndex]):
    """An endless stream of draws: epoch after epoch, each a permutation made from (seed, epoch).

    Position p of the stream is drawn by rank p mod world_size, so that ranks together draw every
    image once an epoch, and the stream is the same for any number of ranks.
    start: the position to begin at, that is the number of images that all ranks have drawn before.
    """

    def __init__(
        self, size: int, *, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        assert size > 0, "a dataset without images has no order"
        self.size = size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[SampleIndex]:
        epoch, order = -1, None
        for position in count(self.start + self.rank, self.world_size):
            if position // self.size != epoch or order is None:
                epoch = position // self.size
                order = seeded_generator(self.seed, ORDER_STREAM, epoch).permutation(self.size)
            yield SampleIndex(position, int(order[position % self.size]))


class ShardSampler(Sampler[int]):
    """The share of one rank in an evaluation: no image twice, none lost, shares differ by one."""

    def __init__(self, size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.items = range(rank, size, world_size)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[int]:
        return iter(self.items)


def training_loader(
    dataset: SegmentationDataset,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    num_workers: int = 4,
    rank: int = 0,
    world_size: int = 1,
) -> "Loader":
    """Endless batches of `batch_size` samples for one rank.

    start: images that all ranks together have drawn before, i.e. steps * batch_size * world_size.
    """
    sampler = TrainingSampler(
        len(dataset), seed=seed, start=start, rank=rank, world_size=world_size
    )
    return Loader(dataset, sampler, batch_size=batch_size, num_workers=num_workers)


def eval_loader(
    dataset: SegmentationDataset,
    *,
    num_workers: int = 4,
    rank: int = 0,
    world_size: int = 1,
    batch_size: int = 1,
) -> "Loader":
    """The share of one rank in one pass over the dataset, in order."""
    sampler = ShardSampler(len(dataset), rank=rank, world_size=world_size)
    return Loader(dataset, sampler, batch_size=batch_size, num_workers=num_workers)


@contextmanager
def deaf_workers() -> Iterator[None]:
    """Around the start of data workers: Ctrl-C, SIGTERM and SIGHUP, which a terminal or a scheduler
    sends to them too, are the main process's affair. They never get them; it stops them when it
    ends, and they themselves see to it that they do not outlive it.

    Also undoes that torch takes over SIGCHLD: its handler raises the error of a dead worker
    wherever the main thread happens to be, in a backward pass as well. It comes with the next
    batch, too.
    """
    before = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _DEAF_TO)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Loader:
    """Batches from worker processes; a failure in a worker is one line that names the file."""

    def __init__(
        self,
        dataset: SegmentationDataset,
        sampler: Sampler[SampleIndex] | Sampler[int],
        *,
        batch_size: int,
        num_workers: int,
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.progress = torch.full((num_workers, 2), -1).share_memory_()  # process id, item
        self.batches = self._data_loader()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Sample]]:
        with deaf_workers():
            batches = iter(self.batches)
        while True:
            batch = self._next(batches)
            if batch is None:
                return
            if isinstance(batch, UserError):
                self._stop(batches)
                raise batch
            yield batch

    def _data_loader(self) -> DataLoader[Sample | UserError]:
        return DataLoader(
            _Reporting(self.dataset, self.progress),
            sampler=self.sampler,
            batch_size=self.batch_size,
            collate_fn=_collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # its own generator: the default draws from torch's global state, which a resumed run
            # must find as it left it
            generator=torch.Generator(),
        )

    def _next(self, batches: Iterator[Any]) -> list[Sample] | UserError | None:
        try:
            return self._received(batches)
        except RuntimeError as error:
            message = str(error).partition("\n")[0]
            # torch's own words for a dead worker; what is raised inside one arrives as "Caught ..."
            if "Caught" in message or not message.startswith(DEATH_MESSAGES):
                raise
        self._stop(batches)
        raise self._worker_died(message)

    def _received(self, batches: Iterator[Any]) -> list[Sample] | UserError | None:
        while True:
            try:
                return next(batches, None)
            except (ConnectionError, EOFError, FileNotFoundError):
                # the other end of a pipe has gone; asked again, torch finds which worker it was
                if self.num_workers == 0:
                    raise

    def _stop(self, batches: Iterator[Any]) -> None:
        """End the workers now; the garbage collector would wait for them up to 10 s."""
        shut_down = getattr(batches, "_shutdown_workers", None)
        if shut_down is not None:
            with suppress(RuntimeError):  # another worker that dies meanwhile
                shut_down()
            for worker in getattr(batches, "_workers", []):  # one that hangs hears no SIGTERM
                if worker.is_alive():
                    worker.kill()
            self.batches = self._data_loader()

    def _worker_died(self, message: str) -> UserError:
        """Name the image that the dead worker was at: `message` holds its process id."""
        dead = {int(number) for number in re.findall(r"\d+", message)}
        rows = [(process, item) for process, item in self.progress.tolist() if item >= 0]
        items = [item for process, item in rows if process in dead] or [item for _, item in rows]
        paths = ", ".join(self.dataset.records[item].image_path for item in items)
        return UserError(
            f"{paths or 'before the first image'}: a worker process died here ({message}); if "
            "memory or /dev/shm ran out, use fewer workers (DATALOADER.NUM_WORKERS)"
        )


class _Reporting(Dataset[Sample | UserError]):
    """Notes the image that each worker is at, and hands a `UserError` over as a value: raised in a
    worker it would arrive wrapped in a traceback."""

    def __init__(self, dataset: SegmentationDataset, progress: Tensor) -> None:
        self.dataset = dataset
        self.progress = progress

    def __getitem__(self, request: SampleIndex | int) -> Sample | UserError:
        worker = get_worker_info()
        if worker is not None:
            item = request.item if isinstance(request, SampleIndex) else request
            self.progress[worker.id] = torch.tensor([os.getpid(), item])
        try:
            return self.dataset[request]
        except UserError as error:
            return error

    def __len__(self) -> int:
        return len(self.dataset)


def _collate(samples: list[Sample | UserError]) -> list[Sample] | UserError:
    good = [sample for sample in samples if isinstance(sample, Sample)]
    bad = [sample for sample in samples if isinstance(sample, UserError)]
    return bad[0] if bad else good
