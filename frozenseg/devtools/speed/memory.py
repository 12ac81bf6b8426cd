"""Measure the peak memory of a piece of work on Linux, with a CPU or CUDA."""

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from frozenseg.errors import UserError


@dataclass(frozen=True)
class Memory:
    """Memory in bytes.

    held: memory in use before the work, with the loaded model.
    peak: the maximum during the work.
    """

    held: int
    peak: int

    def report(self) -> dict[str, float]:
        """Return the numbers in GB (10^9 bytes), as in all logs."""
        sizes = {"model": self.held, "above": self.peak - self.held, "peak": self.peak}
        return {f"{name}_gb": round(size / 1e9, 3) for name, size in sizes.items()}


def measure_memory(work: Callable[[], object], device: torch.device) -> Memory:
    """Run the work and measure its memory.

    On a CPU it is the resident set of this process, Python and libraries included; on CUDA it is
    what PyTorch has allocated.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        work()
        return Memory(held, torch.cuda.max_memory_allocated(device))
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory freed earlier must not count as held
        held = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM is the peak
    except (OSError, AttributeError):
        raise UserError("peak memory on the CPU can be read on Linux only") from None
    work()
    return Memory(held, _status("VmHWM"))


def _status(field: str) -> int:
    line = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if line is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(line[1]) * 1024
