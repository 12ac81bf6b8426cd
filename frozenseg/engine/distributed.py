"""Train in several processes: start them, and exchange values between them.

Everything also works in a single process, where sums and gathers return only its own values.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from frozenseg.engine.interrupt import SIGNALS, ends_as_by_ctrl_c, handled_by
from frozenseg.engine.torchrun import keeps_a_store, store_of_this_start, under_torchrun
from frozenseg.errors import UserError, reason_of
from frozenseg.extensions import import_extensions, imported_extensions
from frozenseg.runtime.allocator import configure_allocator

logger = logging.getLogger(__name__)

Job = Callable[[Any], int]
INTERRUPTED = 130  # the exit status that shells report after Ctrl-C
PATIENCE = 15.0  # seconds that a process whose parent has died gets to stop before it is killed


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Which processes train together.

    processes: the number of processes on each machine.
    machines: the number of machines.
    machine: the rank of this machine, from 0.
    url: the address of process 0, tcp://HOST:PORT, or "auto" if there is a single machine.
    backend: the backend of torch.distributed: "gloo" for CPUs, "cpu:gloo,cuda:nccl" for GPUs.
    """

    processes: int = 1
    machines: int = 1
    machine: int = 0
    url: str = "auto"
    backend: str = "gloo"

    @property
    def world_size(self) -> int:
        """The number of processes on all machines together."""
        return self.processes * self.machines

    def check(self) -> None:
        """Raise `UserError` if the counts, the machine rank and the address are inconsistent."""
        if self.processes < 1 or self.machines < 1:
            raise UserError("--num-gpus and --num-machines must be at least 1")
        if not 0 <= self.machine < self.machines:
            raise UserError(
                f"--machine-rank {self.machine}: must lie in 0-{self.machines - 1} "
                f"with --num-machines {self.machines}"
            )
        if self.machines > 1 and not self.url.startswith("tcp://"):
            raise UserError(
                f"--dist-url {self.url}: several machines need the address of the first one, "
                "tcp://HOST:PORT"
            )


def launch(job: Job, argument: Any, layout: LaunchConfig) -> int:
    """Run `job(argument)` in all processes of the layout; returns the exit status of the first one.

    A `UserError` in any process ends all of them and is raised here. Torch's `elastic_launch` is
    not used, because it waits 30 s for the other processes before it ends a failed run, and reports
    the failure in many lines.
    """
    layout.check()
    if under_torchrun():
        _end_with(os.getppid())
        return _in_group(job, argument, layout.backend, "env://")
    if layout.world_size == 1:
        return job(argument)
    url = f"tcp://127.0.0.1:{_free_port()}" if layout.url == "auto" else layout.url
    logger.info("%s", _starting(layout, url))
    context = mp.get_context("spawn")
    outcomes = context.SimpleQueue()
    workers = []
    for index in range(layout.processes):
        worker = context.Process(
            target=_worker,
            args=(job, argument, layout, url, index, outcomes, _logging_level()),
            kwargs={"extensions": imported_extensions()},
        )
        workers.append(worker)
    return _await(workers, outcomes)


def _starting(layout: LaunchConfig, url: str) -> str:
    """Return a log line about the start, since nothing else is logged until all processes meet."""
    starting = f"starting {layout.processes} process{'' if layout.processes == 1 else 'es'}"
    if layout.machines == 1:
        return starting
    return (
        f"machine rank {layout.machine} of {layout.machines} machines: {starting}, which will wait "
        f"at {url} until all {layout.world_size} processes of the run are there"
    )


def _worker(
    job: Job,
    argument: Any,
    layout: LaunchConfig,
    url: str,
    index: int,
    outcomes: Any,
    level: int,
    *,
    extensions: tuple[str, ...],
) -> None:
    """Run one process of `launch`.

    outcomes: the queue for (error message, exit status): every process that fails with a
        `UserError` puts its message, and the first process puts ("", status) if the job succeeds.
    """
    configure_allocator()  # as in the command that has started this process
    os.environ["LOCAL_RANK"] = str(index)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("frozenseg")
    package.addHandler(handler)
    first = layout.machine == 0 and index == 0
    package.setLevel(level if first else logging.ERROR)
    rank = layout.machine * layout.processes + index
    starter = mp.parent_process()
    assert starter is not None and starter.pid is not None, "`launch` has started this process"
    _end_with(starter.pid)

    def report_before_leaving(argument: Any) -> int:
        """Report an error before this process leaves the group, which causes errors in others."""
        try:
            return job(argument)
        except UserError as error:
            _report(outcomes, str(error), 2)
            raise

    try:
        with ends_as_by_ctrl_c():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # see `_await`
            import_extensions(extensions)
            status = _in_group(
                report_before_leaving, argument, layout.backend, url, rank, layout.world_size
            )
    except UserError as error:
        if outcomes.empty():  # the error was raised before the job began
            _report(outcomes, str(error), 2)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except RuntimeError:  # torch.distributed raises it if another process has left the group
        if outcomes.empty():
            raise
        sys.exit(2)  # another process has reported the error that caused this one
    if index == 0:
        _report(outcomes, "", status)


def _report(outcomes: Any, message: str, status: int) -> None:
    with suppress(BrokenPipeError):  # the parent has died
        outcomes.put((message, status))


def _end_with(parent: int) -> None:
    """Stop this process when its parent has died, for example because it was killed for memory.

    The process is asked to stop gracefully, and killed after `PATIENCE` seconds. Otherwise it would
    keep training beside the next run.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def _in_group(
    job: Job, argument: Any, backend: str, url: str, number: int = -1, count: int = -1
) -> int:
    """Join the process group as process `number` of `count`, and run the job.

    number, count: -1: taken from the environment.
    """
    if "nccl" in backend:
        if local_rank() >= torch.cuda.device_count():
            raise UserError(
                f"process {local_rank()} (counted from 0) of this machine has no GPU, because "
                f"PyTorch finds only {torch.cuda.device_count()}; start no more processes than "
                "there are GPUs"
            )
        torch.cuda.set_device(local_rank())
    try:
        if keeps_a_store():
            number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            store = store_of_this_start(number)
            dist.init_process_group(backend, store=store, rank=number, world_size=count)
        else:
            dist.init_process_group(backend, init_method=url, rank=number, world_size=count)
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"--dist-url {url}: could not set up the process group at this address "
            f"({reason_of(error)})"
        ) from None
    if is_main():
        logger.info("all %d processes have joined", world_size())
    try:
        return job(argument)
    finally:
        dist.destroy_process_group()


def _await(workers: list[Any], outcomes: Any) -> int:
    """Start all workers, wait for them, and forward signals to them; the first that fails ends the
    others."""
    arrived: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        for worker in workers:
            if worker.is_alive():
                os.kill(worker.pid, number)

    # Ctrl-C in a terminal reaches the workers directly, other signals only reach this process.
    # Signals wait until the workers are started, and in a worker, which inherits this, until it has
    # its handlers: while it imports PyTorch, it would die of them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    with handled_by(forward, SIGNALS):
        try:
            for worker in workers:
                worker.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return _outcome(workers, outcomes, arrived)


def _outcome(workers: list[Any], outcomes: Any, arrived: list[int]) -> int:
    """Wait for all workers. arrived: the signals that have been forwarded to them so far."""
    try:
        running = {worker.sentinel: worker for worker in workers}
        while running:
            for sentinel in wait(list(running)):
                worker = running.pop(sentinel)
                worker.join()
                if worker.exitcode != 0:
                    raise _failure(worker, outcomes, arrived)
        return int(outcomes.get()[1])
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()
            worker.join()


def _failure(worker: Any, outcomes: Any, arrived: list[int]) -> BaseException:
    if worker.exitcode == INTERRUPTED:
        return KeyboardInterrupt()
    while not outcomes.empty():
        message, _ = outcomes.get()
        if message:
            return UserError(message)
    if arrived:  # the worker may die of the signal while it ends
        return KeyboardInterrupt()
    return UserError(
        f"a training process ended with exit code {worker.exitcode} "
        "(negative: the signal that killed it; -9 is often a lack of memory); "
        "its own message is printed above; --resume continues from the last checkpoint"
    )


def rank() -> int:
    """Return the number of this process among all; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """Return the rank of this process on its machine, which is also the index of its GPU."""
    return (
        int(os.environ.get("LOCAL_RANK", "0")) if dist.is_initialized() or under_torchrun() else 0
    )


def is_main() -> bool:
    """Tell whether this process writes files and messages; only the one of rank 0 does."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def all_sum(values: Tensor) -> Tensor:
    """Return the sum over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def all_gather_json(value: Any) -> list[Any]:
    """Return the values of all processes, by rank; `value` must be encodable as JSON.

    Torch's `all_gather_object` would use pickle instead.
    """
    if not dist.is_initialized():
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(lengths, torch.tensor([len(text)]))
    longest = max(int(length) for length in lengths)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(text)] = text
    texts = [torch.zeros_like(padded) for _ in lengths]
    dist.all_gather(texts, padded)
    return [
        json.loads(bytes(row[: int(length)].numpy()))
        for row, length in zip(texts, lengths, strict=True)
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _logging_level() -> int:
    return logging.getLogger("frozenseg").getEffectiveLevel()
