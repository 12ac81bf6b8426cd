"""What a host process has set for itself, kept out of what is computed here, and left as it is."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def own_random_stream(seed: int) -> Iterator[None]:
    """What is drawn on the CPU inside comes from a stream of this seed, below 0 from a new one; the
    stream of the process goes on behind it as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        # Not `torch.manual_seed`, which seeds every GPU as well.
        torch.default_generator.manual_seed(seed if seed >= 0 else secrets.randbelow(2**63))
        yield


class _Float32:
    """The default type of new tensors, one for all threads: float32 while at least one is inside,
    and then again what it was. Where it is float32 anyway, nothing is done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = torch.float32

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = torch.get_default_dtype()
                self._set(torch.float32)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._set(self._before)

    @staticmethod
    def _set(dtype: torch.dtype) -> None:
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)


_float32 = _Float32()


@contextmanager
def plain_defaults() -> Iterator[None]:
    """New tensors inside are float32 and on the CPU, whatever the process has for its defaults.

    segment-anything, open_clip and timm count on it. A thread of a host with another default type
    that makes tensors meanwhile gets float32 too: PyTorch has no default of one thread.
    """
    cpu = torch.device("cpu")
    with _float32, nullcontext() if torch.get_default_device() == cpu else cpu:
        yield
