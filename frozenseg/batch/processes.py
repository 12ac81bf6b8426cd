"""The engine for one machine: one process per device, or only this process for a single device."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait

import torch

from frozenseg.batch.worker import Plan, Seen, Worker
from frozenseg.errors import UserError
from frozenseg.runtime.allocator import configure_allocator
from frozenseg.runtime.background import cores


def make_shards(plan: Plan, numbers: list[int], seen: Seen, *, devices: list[str | None]) -> None:
    """Make shards on these devices. Each entry is a process, so a device may be given twice.

    If a process fails or is killed, all processes end, and `UserError` is raised.
    """
    if len(devices) == 1:
        worker = Worker(plan, devices[0])
        for number in numbers:
            worker.make(number, seen)
        return
    waiting = deque(numbers)
    with _started(plan, devices[: len(numbers)]) as connections:
        while connections:
            for connection in wait(connections):
                if not isinstance(connection, Connection):
                    continue
                ready = _heard(connection, seen)
                if ready and waiting:
                    connection.send(waiting.popleft())
                elif ready:
                    connections.remove(connection)


def _heard(connection: Connection, seen: Seen) -> bool:
    """Handle a message from a process; return whether the process waits for its next shard."""
    try:
        kind, line = connection.recv()
    except (EOFError, OSError):
        raise UserError(
            "a process of the model was killed, or its memory ran out; give the same command "
            "again, which continues with the rest"
        ) from None
    if kind == "failed":
        raise UserError(line)
    if kind == "seen":
        seen(line)
    return kind == "ready"


@contextmanager
def _started(plan: Plan, devices: list[str | None]) -> Iterator[list[Connection]]:
    """Inside, the processes run, and their connections are given; at the end all are stopped."""
    context = multiprocessing.get_context("spawn")
    connections, processes = [], []
    try:
        for device in devices:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, plan, device, len(devices)), daemon=True
            )
            process.start()
            theirs.close()
            connections.append(ours)
            processes.append(process)
        yield list(connections)
        for connection in connections:
            connection.close()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()
            process.join()


def _work(connection: Connection, plan: Plan, device: str | None, count: int) -> None:
    """Make the shards whose numbers arrive, until the other end is closed or its process killed."""
    # Ctrl-C reaches the parent process too, which kills this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_allocator()
    torch.set_num_threads(max(1, min(torch.get_num_threads(), cores() // count)))
    try:
        worker = Worker(plan, device)
        connection.send(("ready", None))
        while True:
            number = connection.recv()
            worker.make(number, lambda error: connection.send(("seen", error)))
            connection.send(("ready", None))
    except (EOFError, BrokenPipeError):
        return
    except UserError as error:
        connection.send(("failed", str(error)))
