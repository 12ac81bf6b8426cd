"""Run the parts of sections in other processes, so that an error or a crash ends only one part."""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from frozenseg.devtools.gpu.trial import Trial

Results = Iterator[tuple[str, Any]]
"""What a part of a section yields: (name, result); results before a failure are kept."""
Parts = Mapping[str, Callable[[Trial], Results]]
"""{name: part}; parts must be functions of a module, because they are sent to another process."""


CHECKOUT = f"{Path(__file__).parents[3]}{os.sep}"
"""What is removed from the paths of our files in reports, which are read on other machines."""


@dataclass(frozen=True)
class Section:
    """Parts that are measured one after another.

    title: heading of the section in the report.
    limit: time limit for all parts together, in seconds.
    parts: what is measured.
    """

    title: str
    limit: float
    parts: Parts


@dataclass
class Part:
    """The outcome of a part.

    results: {name: result}; if the part did not finish, those that it yielded before.
    failure: why it did not finish; None if it did.
    seconds: the time that it took.
    """

    results: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    seconds: float = 0.0


def run_section(section: Section, trial: Trial) -> dict[str, Part]:
    """Run all parts of a section; parts for which no time was left get this as their failure.

    They run in a separate process, and in a new one after each failure, because an error in a
    kernel makes CUDA unusable for the rest of the process.
    """
    end = time.monotonic() + section.limit
    found: dict[str, Part] = {}
    while len(found) < len(section.parts):
        names = list(section.parts)[len(found) :]
        if time.monotonic() >= end:
            reason = f"not begun: the section's {section.limit:.0f} s were over"
            found |= {name: Part(failure=reason) for name in names}
        else:
            found |= _run_until_failure({name: section.parts[name] for name in names}, trial, end)
    return found


def _run_until_failure(parts: Parts, trial: Trial, end: float) -> dict[str, Part]:
    """Run parts up to and including the first that fails, and return their outcomes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, parts, trial))
    process.start()
    theirs.close()
    leader = process.pid
    assert leader is not None, "it was started"
    found: dict[str, Part] = {}
    try:
        for name in parts:
            found[name] = part = _receive(ours, end)
            if part.failure is not None:
                break
        else:
            process.join(max(0.0, end - time.monotonic()))
    finally:
        with suppress(ProcessLookupError):  # with all processes that it started
            os.killpg(leader, signal.SIGKILL)
        process.kill()  # in case it has not created its group yet
        process.join()
    return found


def _receive(connection: Connection, end: float) -> Part:
    part, start = Part(), time.monotonic()
    try:
        while connection.poll(max(0.0, end - time.monotonic())):
            kind, value = connection.recv()
            if kind == "result":
                part.results.update([value])
            else:
                part.failure = value
                break
        else:
            part.failure = "stopped: the section's time was over"
    except EOFError:
        part.failure = (
            "its process ended without a message; is memory short, or did a kernel crash?"
        )
    part.seconds = time.monotonic() - start
    return part


def _work(connection: Connection, parts: Parts, trial: Trial) -> None:
    """Send the results of the parts until one fails."""
    with suppress(PermissionError):  # it already leads a group
        os.setpgid(0, 0)
    for part in parts.values():
        try:
            for result in part(trial):
                connection.send(("result", result))
        except Exception:
            connection.send(("end", traceback.format_exc().replace(CHECKOUT, "")))
            return
        connection.send(("end", None))
