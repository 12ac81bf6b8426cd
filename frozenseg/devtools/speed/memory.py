"""Peak memory of a piece of work, apart from what was held before it: Linux, CPU or CUDA."""

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from frozenseg.errors import UserError


@dataclass(frozen=True)
class Memory:
    """Bytes. held: before the work, with the loaded model. peak: the most during the work."""

    held: int
    peak: int

    def report(self) -> dict[str, float]:
        """In GB (10^9 bytes), as the other logs have it."""
        return {
            "model_gb": round(self.held / 1e9, 3),
            "above_gb": round((self.peak - self.held) / 1e9, 3),
            "peak_gb": round(self.peak / 1e9, 3),
        }


def measure_memory(work: Callable[[], object], device: torch.device) -> Memory:
    """On a CPU the resident set of this process, Python and libraries included; on CUDA what
    PyTorch has allocated."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        work()
        return Memory(held, torch.cuda.max_memory_allocated(device))
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier work has freed is not held
        held = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM is the peak
    except (OSError, AttributeError):
        raise UserError("peak memory on the CPU can be read on Linux only") from None
    work()
    return Memory(held, _status("VmHWM"))


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024
