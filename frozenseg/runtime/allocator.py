"""CPU allocator settings on Linux (glibc thresholds, huge pages), for the package's own programs.

Only commands call `configure_allocator`: a library must not change the memory settings of its host
process.
"""

import ctypes
import os

DEFAULT = "FROZENSEG_DEFAULT_ALLOCATOR"  # if set to any value, no settings are changed
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # PyTorch's own switch, read at its first allocation
KEPT = 2_000_000_000  # free bytes at the end of the heap that are kept for reuse
MAPPED = 128 * 1024 * 1024  # larger tensors, in bytes, get their own memory mappings
MAPPINGS = "/proc/self/maps"  # Linux's list of the mappings of this process
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
_MADV_HUGEPAGE = 14  # an advice of madvise(2)


def configure_allocator() -> None:
    """Keep freed memory for reuse and use huge pages; call it before the first tensor is allocated.

    The settings hold for the entire process and for the processes that it forks; processes that it
    spawns inherit only the huge pages. PyTorch has no memory cache on a CPU: the memory of every
    large tensor comes from the system, which clears it page by page. Keeping memory saves 6 % of
    the published model's time at inference and 14 % in training; huge pages save a fifth of the
    time of SAM's encoder (two cores, logs/speed/benchmark.md). The cost is the free memory that is
    kept between tensors, 0.1 GB at inference. Only glibc can keep freed memory in this way, and the
    user's own settings (GLIBC_TUNABLES, MALLOC_*_, THP_MEM_ALLOC_ENABLE) take precedence.

    Example:
        >>> frozenseg.configure_allocator()  # the first line of your script
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
    """Give memory that preparing a model has freed back to the system; use huge pages in the heap.

    Freed weights leave the heap fragmented. Prepacked weights are allocated by oneDNN, which does
    not request huge pages: the weights of ConvNeXt-L and SAM ViT-B would take 270,000 small pages.
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
    """Return freed memory to the system, which glibc would otherwise keep."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    names = getattr(os, "confstr_names", {})  # absent outside Unix
    return "CS_GNU_LIBC_VERSION" in names and (
        (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    )
