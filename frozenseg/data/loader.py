"""Samplers and loaders: an endless, seeded order for training, exact shares for evaluation.

Both loaders yield `list[Sample]`, because test images differ in size and the model pads them.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from frozenseg.data.dataset import ORDER_STREAM, Sample, SampleIndex, SegmentationDataset
from frozenseg.data.transforms import seeded_generator
from frozenseg.errors import UserError


class TrainingSampler(Sampler[SampleIndex]):
    """An endless stream of draws: epoch after epoch, each a permutation made from (seed, epoch).

    Position p of the stream is drawn by rank p mod world_size, so that all ranks together draw
    every image once per epoch, and the stream is the same for any number of ranks.

    start: the position to begin at, which is the number of images that all ranks together have
        already drawn.
    """

    def __init__(
        self, size: int, *, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        assert size > 0, "a dataset without images has no order"
        self.size, self.seed = size, seed
        self.first, self.step = start + rank, world_size

    def __iter__(self) -> Iterator[SampleIndex]:
        epoch, order = -1, None
        for position in count(self.first, self.step):
            if position // self.size != epoch or order is None:
                epoch = position // self.size
                order = seeded_generator(self.seed, ORDER_STREAM, epoch).permutation(self.size)
            yield SampleIndex(position, int(order[position % self.size]))


class ShardSampler(Sampler[int]):
    """The share of one rank in an evaluation.

    Each image is in exactly one share, and the sizes of the shares differ by at most one.
    """

    def __init__(self, size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.items = range(rank, size, world_size)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[int]:
        return iter(self.items)


LONGEST_WAIT = 1800  # seconds without a batch after which the workers are killed


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
    """Load endless batches of `batch_size` samples for one rank.

    start: the number of images that all ranks together have already drawn, i.e. steps * batch_size
        * world_size.
    """
    size = len(dataset)
    sampler = TrainingSampler(size, seed=seed, start=start, rank=rank, world_size=world_size)
    return Loader(dataset, sampler, batch_size=batch_size, num_workers=num_workers)


def eval_loader(
    dataset: SegmentationDataset,
    *,
    num_workers: int = 4,
    rank: int = 0,
    world_size: int = 1,
    batch_size: int = 1,
) -> "Loader":
    """Load the share of one rank in one pass over the dataset, in order."""
    sampler = ShardSampler(len(dataset), rank=rank, world_size=world_size)
    return Loader(dataset, sampler, batch_size=batch_size, num_workers=num_workers)


def start_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start `iter(loader)` with workers that never receive Ctrl-C, SIGTERM or SIGHUP.

    A terminal or a scheduler sends these signals to all processes of a group. The main process
    handles them and ends its workers when it ends; workers also end when it has died.

    The workers are started from a separate thread that blocks these signals, and they inherit this
    block. Outside the main thread torch also installs no signal handler. Its handler would raise
    the error of a dead worker wherever the main thread happens to be, even in a backward pass; the
    request for the next batch raises the same error.
    """

    def start() -> Iterator[Any]:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        batches = iter(loader)
        # At its exit, a process asks its workers to end by SIGTERM, which they block, and waits
        # for them; they are therefore killed first.
        Finalize(batches, _kill, [getattr(batches, "_workers", [])], exitpriority=1)
        return batches

    with ThreadPoolExecutor(1, thread_name_prefix="start of data workers") as pool:
        return pool.submit(start).result()


def _kill(workers: list[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()


class Loader:
    """Batches from worker processes; a worker that fails gives an error of one line with the file.

    Iteration raises `UserError` for an image or annotation that cannot be used, and for a worker
    process that has died or sends nothing.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        sampler: Sampler[SampleIndex] | Sampler[int],
        *,
        batch_size: int,
        num_workers: int,
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.batch_size, self.num_workers = batch_size, num_workers
        self.batches = self._data_loader()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Sample]]:
        batches = start_workers(self.batches)
        while True:
            try:
                with self._patience():
                    batch = next(batches, None)
            except (ConnectionError, EOFError, FileNotFoundError):
                # The other end of a pipe is gone; the next attempt lets torch find the dead worker.
                if self.num_workers == 0:
                    raise
                continue
            except RuntimeError:  # torch raises it for a dead worker, and for other faults
                batch = self._dead_worker_error()
                if batch is None:
                    raise
            if batch is None:
                return
            if isinstance(batch, UserError):
                self.batches = self._data_loader()  # the running workers end with the old loader
                raise batch from None
            yield batch

    def _data_loader(self) -> DataLoader[Sample | UserError]:
        # The process id of each worker, and the item that it is reading.
        self.progress = torch.full((self.num_workers, 2), -1).share_memory_()
        self.silent = False
        return DataLoader(
            _Reporting(self.dataset, self.progress),
            sampler=self.sampler,
            batch_size=self.batch_size,
            collate_fn=_collate,
            num_workers=self.num_workers,
            worker_init_fn=partial(_note_process, self.progress),
            persistent_workers=self.num_workers > 0,
            # A run on the CPU leaves a GPU alone: others may have filled its memory.
            pin_memory=torch.cuda.is_initialized(),
            # The default generator would draw from torch's global random state, which must be the
            # same after resuming a run as without an interruption.
            generator=torch.Generator(),
        )

    def _dead_worker_error(self) -> UserError | None:
        """Return an error that names the images at which workers died; None if all are alive."""
        alive = {child.pid for child in multiprocessing.active_children()}
        rows = [(process, item) for process, item in self.progress.tolist() if process >= 0]
        died_at = [item for process, item in rows if process not in alive]
        if not died_at:
            return None
        paths = [self.dataset.records[item].image_path for item in died_at if item >= 0]
        reason = "a worker process died here; if memory or /dev/shm ran out, use fewer workers"
        if self.silent:
            reason = (
                f"the processes that read images sent nothing for {LONGEST_WAIT} seconds; one of "
                "them is stopped, or the disk does not answer"
            )
        return UserError(f"{', '.join(paths) or 'before the first image'}: {reason}")

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Kill the workers if no batch comes for `LONGEST_WAIT` seconds; torch then reports it.

        The timeout of torch's own DataLoader cannot be used for this: with a timeout, torch looks
        for dead workers only when it has passed.
        """
        timer = threading.Timer(LONGEST_WAIT, self._end_workers)
        timer.daemon = True
        if self.num_workers:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _end_workers(self) -> None:
        self.silent = True
        for process in self.progress[:, 0].tolist():
            if process > 1:  # it is -1 if the worker has not started
                with suppress(ProcessLookupError):
                    # A stopped process reacts to no other signal.
                    os.kill(process, signal.SIGKILL)


class _Reporting(Dataset[Sample | UserError]):
    """Records which image each worker reads, and returns a `UserError` as a value.

    If a worker raised the error, it would arrive wrapped in a traceback.
    """

    def __init__(self, dataset: SegmentationDataset, progress: Tensor) -> None:
        self.dataset = dataset
        self.progress = progress

    def __getitem__(self, request: SampleIndex | int) -> Sample | UserError:
        worker = get_worker_info()
        if worker is not None:
            item = request.item if isinstance(request, SampleIndex) else request
            self.progress[worker.id, 1] = item
        try:
            return self.dataset[request]
        except UserError as error:
            return error

    def __len__(self) -> int:
        return len(self.dataset)


def _note_process(progress: Tensor, worker: int) -> None:
    progress[worker, 0] = os.getpid()


def _collate(samples: list[Sample | UserError]) -> list[Sample] | UserError:
    errors = [sample for sample in samples if isinstance(sample, UserError)]
    return errors[0] if errors else [sample for sample in samples if isinstance(sample, Sample)]
