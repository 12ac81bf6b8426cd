"""Isolates the package from global settings of the host process (random stream, defaults)."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


@contextmanager
def own_random_stream(seed: int) -> Iterator[None]:
    """Draw random numbers on the CPU from a separate stream, and restore the process's stream
    afterwards.

    seed: seed of the separate stream; if it is below 0, a random seed is used.
    """
    with torch.random.fork_rng(devices=[]):
        # `torch.manual_seed` would seed every GPU as well.
        torch.default_generator.manual_seed(seed if seed >= 0 else secrets.randbelow(2**63))
        yield


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Within the `with` block, make a GPU the current one: streams, graphs and Triton's kernels use
    the current GPU, whatever device the tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class _Float32:
    """Makes float32 the default dtype while at least one thread is inside.

    PyTorch has one default dtype for all threads. It is restored when the last thread leaves.
    """

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
    """Within the `with` block, new tensors are float32 and on the CPU, and autocast is off,
    whatever the host has set.

    segment-anything, open_clip and timm rely on these defaults, and a model has a precision of its
    own. Tensors that other threads of the host create meanwhile are float32 too, because PyTorch
    has no default dtype per thread.
    """
    cpu = torch.device("cpu")
    with (
        _float32,
        nullcontext() if torch.get_default_device() == cpu else cpu,
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        torch.autocast("mps", enabled=False),
    ):
        yield
