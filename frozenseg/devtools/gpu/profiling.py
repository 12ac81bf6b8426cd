"""What PyTorch's profiler says of a piece of work: kernels, their time, and the longest rows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from frozenseg.devtools.speed.clock import synchronize
from frozenseg.files import atomic_path

ROWS, NAME_WIDTH = 60, 70  # of a table
LARGEST = 30_000  # bytes of a table
COPIES = ("Memcpy", "Memset")


@dataclass(frozen=True)
class Profile:
    """kernels: how many were launched on the device. device_ms: that they took. copies: from and to
    the device and within it, by the driver."""

    kernels: int
    device_ms: float
    copies: int

    def results(self) -> dict[str, float]:
        """Return the numbers by the names that reports have."""
        return {
            "kernels": self.kernels,
            "copies": self.copies,
            "kernels, ms": round(self.device_ms, 3),
        }


def take_profile(work: Callable[[], object], device: torch.device, path: Path | None) -> Profile:
    """Profile one run of `work`.

    path: of the table, sorted by the device's own time; None: none is written.
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
