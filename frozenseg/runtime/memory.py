"""Memory that runs out costs one image, with a line that names it, and not the run."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from frozenseg.errors import UserError

# Of this process and of the container that it runs in; absent outside Linux.
MEMINFO, PAGES = Path("/proc/meminfo"), Path("/proc/self/statm")
CONTAINER = Path("/sys/fs/cgroup")
SMALL = 2**28  # bytes for which nobody is asked
WORDS = ("allocate memory", "out of memory", "not enough memory")  # of PyTorch's allocators


def require_memory(needed: int, device: torch.device, purpose: str) -> None:
    """Raise `UserError` if a CPU has less than `needed` bytes free; begins with `purpose`.

    The system grants more than there is, and ends the process when the memory is used.
    """
    if device.type != "cpu" or needed < SMALL:
        return
    free = free_memory()
    if free is not None and needed > free:
        raise UserError(
            f"{purpose} need {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; "
            "scale the image down"
        )


def free_memory() -> int | None:
    """Bytes that this process may still use; None where the system does not say."""
    return min(_limits(), default=None)


def _limits() -> Iterator[int]:
    with suppress(OSError, ValueError, IndexError):
        (line,) = (row for row in MEMINFO.read_text().splitlines() if row.startswith("MemAvail"))
        yield int(line.split()[1]) * 1024
    with suppress(OSError, ValueError, IndexError):  # "max" is no number: no limit
        limit = int((CONTAINER / "memory.max").read_text())
        rows = dict(row.split() for row in (CONTAINER / "memory.stat").read_text().splitlines())
        used = int((CONTAINER / "memory.current").read_text()) - int(rows.get("inactive_file", 0))
        yield max(0, limit - used)
    with suppress(OSError, ValueError, IndexError):
        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            held = int(PAGES.read_text().split()[0]) * resource.getpagesize()
            yield max(0, soft - held)


@contextmanager
def out_of_memory_named(purpose: str) -> Iterator[None]:
    """Turn an error of an allocator into a `UserError` that begins with `purpose`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(w in str(error).lower() for w in WORDS):
            raise
        # Without its traceback, whose frames hold what has filled the memory.
        raise UserError(
            f"{purpose} need more memory than there is; scale the image down"
        ) from error.with_traceback(None)
