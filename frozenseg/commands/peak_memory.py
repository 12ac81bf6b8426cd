"""The most memory that a piece of work takes."""

import re
from collections.abc import Callable
from pathlib import Path

import torch

from frozenseg.errors import UserError


def peak_memory(device: torch.device, work: Callable[[], object]) -> tuple[int, int]:
    """Bytes held before, and at the peak of, `work()`: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        work()
        return held, torch.cuda.max_memory_allocated(device)
    held = _status("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM is the peak
    except OSError:
        raise UserError("peak memory on the CPU can be read on Linux only") from None
    work()
    return held, _status("VmHWM")


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise UserError("peak memory on the CPU can be read on Linux only")
    return int(found[1]) * 1024
