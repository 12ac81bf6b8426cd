"""Profile a piece of work with PyTorch's profiler: number of kernels, their time, and a table."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from frozenseg.devtools.speed.clock import synchronize
from frozenseg.files import atomic_path

ROWS, NAME_WIDTH = 60, 70  # of the table
LARGEST = 30_000  # bytes of the table
COPIES = ("Memcpy", "Memset")


@dataclass(frozen=True)
class Profile:
    """The result of profiling.

    kernels: number of kernels that were launched on the device.
    device_ms: the time that they took, in milliseconds.
    copies: number of the driver's copies (from, to and within the device) and fills of memory.
    """

    kernels: int
    device_ms: float
    copies: int

    def results(self) -> dict[str, float]:
        """Return the numbers under their names in reports."""
        return {
            "kernels": self.kernels,
            "copies": self.copies,
            "kernels, ms": round(self.device_ms, 3),
        }


def take_profile(work: Callable[[], object], device: torch.device, path: Path | None) -> Profile:
    """Profile one run of `work`.

    path: file for the table, which is sorted by the device's own time; None: no table is written.
    """
    kinds = [ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    synchronize(device)
    with profile(activities=kinds) as profiler:
        work()
        synchronize(device)
    if path is not None:
        _write_table(profiler, device, path)
    events: list[Any] = [
        event
        for event in profiler.events() or []
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    kernels = [event for event in events if not event.name.startswith(COPIES)]
    return Profile(
        kernels=len(kernels),
        device_ms=sum(event.time_range.elapsed_us() for event in kernels) / 1000,
        copies=len(events) - len(kernels),
    )


def _write_table(profiler: profile, device: torch.device, path: Path) -> None:
    kind = "cpu" if device.type == "cpu" else "device"
    table = profiler.key_averages().table(
        sort_by=f"self_{kind}_time_total", row_limit=ROWS, max_name_column_width=NAME_WIDTH
    )
    with atomic_path(path) as temporary:
        temporary.write_text(_cut(table), encoding="utf-8")


def _cut(table: str) -> str:
    lines, size = [], 0
    for line in table.split("\n"):
        size += len(line.encode()) + 1
        if size > LARGEST:
            break
        lines.append(line.rstrip())
    return "\n".join(lines).rstrip() + "\n"
