"""Launches Triton kernels; if one fails, operations of PyTorch are used instead."""

import importlib.util
import logging
import os
import shutil
import threading
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Triton compiles a small launcher with the machine's C compiler and cannot run without one.
TRITON_PRESENT = importlib.util.find_spec("triton") is not None and any(
    (os.environ.get("CC"), shutil.which("gcc"), shutil.which("clang"))
)
TRITON_CAPABILITY = (7, 5)  # the oldest GPUs for which the kernels were compiled
BFLOAT16_CAPABILITY = (8, 0)  # the oldest GPUs that compute in bfloat16

_failed: set[str] = set()
_first_failure = threading.Lock()


def runs_triton(*tensors: Tensor) -> bool:
    """Return whether Triton kernels support these tensors: on a recent GPU, not in float64."""
    if not TRITON_PRESENT or any(tensor.device.type != "cuda" for tensor in tensors):
        return False
    dtypes = {tensor.dtype for tensor in tensors}
    needed = BFLOAT16_CAPABILITY if torch.bfloat16 in dtypes else TRITON_CAPABILITY
    capability = torch.cuda.get_device_capability(tensors[0].device)
    return torch.float64 not in dtypes and capability >= needed


def kernels_work(part: str) -> bool:
    """Return whether no kernel of this part has failed in this process so far."""
    return part not in _failed


def launch(
    part: str, kernel: Any, grid: tuple[int, ...], *tensors: Any, instead: str, **sizes: Any
) -> bool:
    """Launch a kernel and return whether it ran.

    A kernel that failed to compile or launch would fail again, so the first failure of a part is
    logged and none of its kernels is tried from then on. Fatal errors, such as a device error of an
    earlier kernel, are raised again by the code that replaces the kernel.

    part: the purpose of the kernel, for the warning.
    instead: for the warning, a clause that says what is used instead of the kernel.
    tensors, sizes: the arguments of the kernel; the first one is a tensor.
    """
    if not kernels_work(part):
        return False
    try:
        with torch.cuda.device_of(tensors[0]):
            kernel[grid](*tensors, **sizes)
    # The errors of compiler, assembler, linker, driver and disk cache have no common class.
    except Exception as error:
        _warn_once(part, kernel.fn.__name__, instead, error)
        return False
    return True


def _warn_once(part: str, kernel: str, instead: str, error: Exception) -> None:
    import triton

    with _first_failure:
        if kernels_work(part):
            _failed.add(part)
            logger.warning(
                "%s: the kernel %s of Triton %s fails here (%s: %s); %s, which is slower",
                part,
                kernel,
                triton.__version__,
                type(error).__name__,
                " ".join(str(error).split())[:300],
                instead,
            )
