"""Runs sections apart from each other: an error, a crash or a lack of time ends one part alone."""

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
"""What a part of a section yields: name of a number, and the number; they count as they come."""
Parts = Mapping[str, Callable[[Trial], Results]]
"""By their names; functions of modules, because they go to another process."""


CHECKOUT = f"{Path(__file__).parents[3]}{os.sep}"
"""What reports leave out of the names of our files: they are read elsewhere."""


@dataclass(frozen=True)
class Section:
    """Parts that are measured one after another.

    title: of the section in the report.
    limit: seconds for all parts together.
    parts: what is measured.
    """

    title: str
    limit: float
    parts: Parts


@dataclass
class Part:
    """What a part has come to.

    results: of it, by name; also of one that did not come to its end.
    failure: why it has not; None if it has.
    seconds: that it took.
    """

    results: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    seconds: float = 0.0


def run_section(section: Section, trial: Trial) -> dict[str, Part]:
    """Run all parts of a section; those for which no time was left say so.

    They run in a process of their own, a new one after each failure: an error of a kernel leaves
    CUDA unusable for the whole process.
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
    """Return the first parts up to one that fails, which is among them."""
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
        with suppress(ProcessLookupError):  # with all that it has started
            os.killpg(leader, signal.SIGKILL)
        process.kill()  # in case it had not made its group yet
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
        part.failure = "its process ended without a word; is memory short, or did a kernel crash?"
    part.seconds = time.monotonic() - start
    return part


def _work(connection: Connection, parts: Parts, trial: Trial) -> None:
    """Send the results of the parts until one fails."""
    with suppress(PermissionError):  # leads a group already
        os.setpgid(0, 0)
    for part in parts.values():
        try:
            for result in part(trial):
                connection.send(("result", result))
        except Exception:
            connection.send(("end", traceback.format_exc().replace(CHECKOUT, "")))
            return
        connection.send(("end", None))
