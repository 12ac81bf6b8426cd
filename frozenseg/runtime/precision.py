"""In which number format a device computes; training and inference choose by one rule.

What does not bear half precision (sampling positions, means over many cells, class logits) says so
where it is computed, by `in_float32`.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from frozenseg.errors import UserError, nearest

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CHOICES = ("auto", *DTYPES)


@dataclass(frozen=True)
class Precision:
    """dtype: of matrix products, convolutions and attention under `autocast`; None: float32."""

    device: torch.device
    dtype: torch.dtype | None = None

    @classmethod
    def choose(cls, device: torch.device, name: str) -> "Precision":
        """name: one of `CHOICES`; "auto": on CUDA bfloat16 where the hardware has it, else float16;
        float32 elsewhere."""
        if name not in CHOICES:
            raise UserError(f"{name}: unknown; {nearest(name, list(CHOICES))}")
        if name == "auto":
            name = "fp32" if device.type != "cuda" else "bf16" if _has_bfloat16() else "fp16"
        return cls(device, DTYPES[name])

    @property
    def name(self) -> str:
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    def autocast(self) -> AbstractContextManager[Any]:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def in_float32(tensor: Tensor) -> AbstractContextManager[Any]:
    """What runs inside on the device of `tensor` keeps the type of its inputs."""
    return torch.autocast(tensor.device.type, enabled=False)


def _has_bfloat16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)
