"""How memory on the CPU is asked of Linux: for programs of their own, which the commands are; a
library leaves its host's memory alone."""

import ctypes
import os

DEFAULT = "FROZENSEG_DEFAULT_ALLOCATOR"  # set to anything: memory is asked for as everywhere else
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # PyTorch's own switch, read at its first allocation
KEPT = 2_000_000_000  # bytes at the end of the heap that are not given back
MAPPED = 128 * 1024 * 1024  # bytes from which on a tensor is a mapping of its own
MAPPINGS = "/proc/self/maps"  # of Linux
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_MADV_HUGEPAGE = 14  # of madvise(2)


def configure_allocator() -> None:
    """Let freed memory be used again in place of giving it back, and use huge pages: of the whole
    process, and of those that it starts. To be called once, before the first tensor.

    PyTorch has no cache of its own on a CPU: every large tensor is asked of the system, which
    clears it page by page. Keeping memory saves 6 % of the published model's time at inference and
    14 % in training, huge pages a fifth of SAM's encoder (two cores, logs/speed/benchmark.md). The
    price is what lies free between tensors, 0.1 GB at inference. Only glibc knows these settings,
    and they yield to those of the user (GLIBC_TUNABLES, MALLOC_*_, THP_MEM_ALLOC_ENABLE).

    Example:
        >>> frozenseg.configure_allocator()  # the first line of a script of one's own
    """
    if DEFAULT in os.environ:
        return
    os.environ.setdefault(HUGE_PAGES, "1")
    settings = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
    if _is_glibc() and not any(name in os.environ for name in settings):
        library = ctypes.CDLL(None)
        library.mallopt(_M_TRIM_THRESHOLD, KEPT)
        library.mallopt(_M_MMAP_THRESHOLD, MAPPED)


def release_fragmented_memory() -> None:
    """After a model was made ready: give back what it freed, and let the heap be in huge pages.

    Weights in oneDNN's layout are not PyTorch's memory, which asks for huge pages itself: those of
    ConvNeXt-L and SAM ViT-B would lie in 270,000 small ones.
    """
    if DEFAULT in os.environ or not _is_glibc():
        return
    library = ctypes.CDLL(None)
    library.malloc_trim(0)
    if os.environ.get(HUGE_PAGES) == "1" and os.path.exists(MAPPINGS):
        library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        with open(MAPPINGS) as file:
            lines = [line.split() for line in file if line.rstrip().endswith("[heap]")]
        for bounds, *_ in lines:
            start, stop = (int(bound, 16) for bound in bounds.split("-"))
            library.madvise(start, stop - start, _MADV_HUGEPAGE)


def give_back_memory() -> None:
    """Give freed memory back to the system, where the C library would keep it."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    names = getattr(os, "confstr_names", {})  # absent outside Unix
    return "CS_GNU_LIBC_VERSION" in names and (
        (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    )
