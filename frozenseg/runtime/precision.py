"""The type in which a model computes; training and inference choose it by the same rule.

Operations for which half precision is too coarse (sampling locations, means over many cells, class
logits) opt out of it by `in_float32`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from frozenseg.errors import UserError, nearest

DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CHOICES = ("auto", *DTYPES)


@dataclass(frozen=True)
class Precision:
    """The device and its autocast dtype.

    dtype: of matrix products, convolutions and attention under `autocast`; None: float32.
    tf32: whether CUDA may round the inputs of float32 products and convolutions to TF32, which has
        the 10 bits of float16; only without `dtype`.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    tf32: bool = False

    @classmethod
    def choose(cls, device: torch.device, name: str) -> "Precision":
        """name: one of `CHOICES`; "auto": on CUDA bfloat16 where the hardware has it, else float16;
        float32 elsewhere."""
        if name not in CHOICES:
            raise UserError(f"{name}: unknown; {nearest(name, list(CHOICES))}")
        if name == "auto":
            name = "fp32" if device.type != "cuda" else "bf16" if _has_bfloat16() else "fp16"
        return cls(device, DTYPES[name], tf32=name == "tf32")

    @property
    def name(self) -> str:
        """The name of the precision, a key of `DTYPES`."""
        return (
            "tf32"
            if self.tf32
            else next(name for name, dtype in DTYPES.items() if dtype == self.dtype)
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """PyTorch's autocast with this dtype; for float32, TF32 switched on or off inside."""
        if self.dtype is None:
            return allow_tf32(self.tf32) if self.device.type == "cuda" else nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


@contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Whether CUDA's products and cuDNN's convolutions may use TF32 inside.

    PyTorch allows it for convolutions by default. The flags are the process's; they are as before
    at the end.
    """
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = allowed
    try:
        yield
    finally:
        for backend, flag in zip(backends, before, strict=True):
            backend.allow_tf32 = flag


def in_float32(tensor: Tensor) -> AbstractContextManager[Any]:
    """Switch autocast off inside, on the device of `tensor`."""
    return torch.autocast(tensor.device.type, enabled=False)


def in_type_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Switch autocast off inside if `tensor` is in half precision.

    A part whose input and weights are in half precision computes in it without a cast; one with
    float32 weights leaves the type to autocast.
    """
    return nullcontext() if tensor.dtype == torch.float32 else in_float32(tensor)


def in_compute_type(tensor: Tensor) -> Tensor:
    """The tensor in the type that products have here: autocast's, where it is on.

    Saves casts where one tensor enters many products.
    """
    kind = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else tensor


def _has_bfloat16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)
