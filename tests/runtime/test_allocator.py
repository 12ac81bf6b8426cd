"""What `configure_allocator` sets for memory on the CPU, in processes of their own."""

import os
import subprocess
import sys

import pytest

from frozenseg.runtime.allocator import DEFAULT, HUGE_PAGES

PROGRAM = """
import os, re
import frozenseg
frozenseg.configure_allocator()
import torch

def held():  # in memory or swapped out, which a full machine does to any process
    with open("/proc/self/status") as file:
        return sum(map(int, re.findall(r"Vm(?:RSS|Swap):\\s+(\\d+) kB", file.read()))) / 1e3

def in_huge_pages():  # all of the heap, as far as it was asked for
    with open("/proc/self/smaps") as file:
        heap = [m for m in re.split(r"(?m)^(?=[0-9a-f]+-)", file.read()) if "[heap]" in m]
    return all(" hg" in re.search(r"VmFlags:(.*)", m)[1] for m in heap)

tensors = [torch.ones(10_000_000) for _ in range(8)]  # 320 MB, each less than a mapping
full = held()
del tensors
given_back = full - held()
frozenseg.runtime.allocator.release_fragmented_memory()
huge = in_huge_pages()
print(os.environ.get("THP_MEM_ALLOC_ENABLE"), given_back, full - held(), huge)
"""


def run(**environment: str) -> tuple[str, float, float, bool]:
    """The switch for huge pages, and the megabytes given back of 320 that were freed: at once, and
    after `release_fragmented_memory`; whether the heap is in huge pages then."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_")) and name not in (DEFAULT, HUGE_PAGES)
    }
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**kept, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    switch, at_once, in_all, huge = done.stdout.split()
    return switch, float(at_once), float(in_all), huge == "True"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux's allocator")
def test_freed_memory_is_kept_unless_the_user_says_otherwise() -> None:
    switch, given_back, in_all, huge = run()
    assert switch == "1" and given_back < 50 and in_all > 250
    assert huge or not os.path.exists("/sys/kernel/mm/transparent_hugepage")
    switch, given_back, _, huge = run(**{DEFAULT: "1"})
    assert switch == "None" and given_back > 250 and not huge
    switch, given_back, _, huge = run(MALLOC_MMAP_THRESHOLD_="1000000", THP_MEM_ALLOC_ENABLE="0")
    assert switch == "0" and given_back > 250 and not huge
