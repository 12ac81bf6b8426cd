"""Running out of memory fails one image, with an error that names it, and not the entire run."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from frozenseg.errors import UserError

# Memory of the system, of this process and of its container; absent outside Linux.
MEMINFO, PAGES = Path("/proc/meminfo"), Path("/proc/self/statm")
CONTAINER = Path("/sys/fs/cgroup")
SMALL = 2**28  # bytes; for less, the free memory is not checked
# Phrases in the errors of the allocators of PyTorch, cuBLAS and cuDNN, in lower case.
WORDS = ("allocate memory", "out of memory", "not enough memory", "_status_alloc_failed")


def require_memory(needed: int, device: torch.device, purpose: str) -> None:
    """Raise `UserError` if `device` is a CPU and fewer than `needed` bytes are free.

    The message begins with `purpose`. The check is needed because the system grants more memory
    than there is, and kills the process when that memory is used.
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
    """Return the bytes that this process may still use; None if the system does not tell."""
    return min(_limits(), default=None)


def _limits() -> Iterator[int]:
    with suppress(OSError, ValueError, IndexError):
        (line,) = (row for row in MEMINFO.read_text().splitlines() if row.startswith("MemAvail"))
        yield int(line.split()[1]) * 1024
    with suppress(OSError, ValueError, IndexError):  # "max" is not a number and means no limit
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
    """Turn an allocator's error into a `UserError` whose message begins with `purpose`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # The traceback is dropped, because its frames keep alive the tensors that fill the memory.
        raise UserError(
            f"{purpose} need more memory than there is; scale the image down"
        ) from error.with_traceback(None)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator raised `error`: Python's, or one of a device's libraries."""
    if isinstance(error, RuntimeError):
        return any(words in str(error).lower() for words in WORDS)
    return isinstance(error, MemoryError)
