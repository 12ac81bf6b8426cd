"""The type in which a model computes; training and inference choose it by the same rule.

Operations for which half precision is too coarse (sampling locations, means over many cells, class
logits) opt out of it by `in_float32`.
"""

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from frozenseg.errors import UserError, nearest
from frozenseg.runtime.linear import onednn_present

logger = logging.getLogger(__name__)

DTYPES = {
    "fp32": None,
    "tf32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": None,
}
CHOICES = ("auto", *DTYPES)


@dataclass(frozen=True)
class Precision:
    """The device and its autocast dtype.

    dtype: of matrix products, convolutions and attention under `autocast`; None: float32.
    int8: whether the linear layers in the blocks of frozen encoders multiply whole numbers of 8
        bits, on a CPU; all else is float32.
    tf32: whether CUDA rounds the inputs of float32 products and convolutions to TF32, which has the
        10 bits of float16. With `dtype` it does so too (`tf32_allowed`).
    """

    device: torch.device
    dtype: torch.dtype | None = None
    tf32: bool = False
    int8: bool = False

    @classmethod
    def choose(cls, device: torch.device, name: str) -> "Precision":
        """name: one of `CHOICES`; "auto": float32, but on CUDA float16, which is closer to float32
        than bfloat16 and as fast (docs/guides/gpu.md)."""
        if name not in CHOICES:
            raise UserError(f"{name}: unknown; {nearest(name, list(CHOICES))}")
        if name == "auto":
            name = "fp16" if device.type == "cuda" else "fp32"
        if name == "int8" and not (device.type == "cpu" and onednn_present()):
            raise UserError(f"int8: runs on x86 CPUs with AVX2 alone, not here; use {CHOICES[0]}")
        if name == "bf16" and device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
            _warn_of_slow_bfloat16()
        return cls(device, DTYPES[name], tf32=name == "tf32", int8=name == "int8")

    @classmethod
    def for_training(cls, device: torch.device, *, mixed: bool) -> "Precision":
        """mixed: on CUDA bfloat16 where the hardware has it, as its gradients need no scaling, else
        float16. Otherwise, and elsewhere, float32."""
        if not mixed or device.type != "cuda":
            return cls(device)
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return cls(device, torch.bfloat16 if native else torch.float16)

    @property
    def name(self) -> str:
        """The name of the precision, a key of `DTYPES`."""
        if self.tf32 or self.int8:
            return "tf32" if self.tf32 else "int8"
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def tf32_allowed(self) -> bool:
        """Whether products that stay in float32 may use TF32 on CUDA.

        In half precision they may: most of their inputs were in half precision before and lose
        nothing, the others lose as much as half precision does, and the sums stay in float32.
        """
        return self.tf32 or self.dtype is not None

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """PyTorch's autocast with this dtype; on CUDA, `float32_products` as well."""
        with self.float32_products():
            if self.dtype is None:
                yield
            else:
                with torch.autocast(self.device.type, dtype=self.dtype):
                    yield

    def float32_products(self) -> AbstractContextManager[Any]:
        """On CUDA, TF32 is switched on or off inside, for the products of float32."""
        return allow_tf32(self.tf32_allowed) if self.device.type == "cuda" else nullcontext()


@functools.cache  # said once
def _warn_of_slow_bfloat16() -> None:
    logger.warning("bf16: this CPU has no instructions for it; fp32 is several times as fast here")


class _Switch(NamedTuple):
    """A setting of the process that says whether float32 may be rounded to TF32."""

    backend: Any
    attribute: str
    on: Any
    off: Any

    def value(self) -> Any:
        """None: PyTorch refuses to read its older settings where the newer ones disagree."""
        try:
            return getattr(self.backend, self.attribute)
        except RuntimeError:
            return None

    def set(self, value: Any) -> None:
        setattr(self.backend, self.attribute, value)


def _switches() -> tuple[list[_Switch], list[_Switch]]:
    """Return PyTorch's older settings of products and of cuDNN, and the newer ones (2.9 on)."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    older = [_Switch(backend, "allow_tf32", True, False) for backend in (matmul, cudnn)]
    if not hasattr(matmul, "fp32_precision"):
        return older, []
    backends = (matmul, cudnn.conv, cudnn.rnn)
    return older, [_Switch(backend, "fp32_precision", "tf32", "ieee") for backend in backends]


def tf32_settings() -> tuple[bool, ...]:
    """Return whether CUDA's products, and then cuDNN's operations, may use TF32 now."""
    older, newer = _switches()
    return tuple(switch.value() == switch.on for switch in newer or older)


_tf32_lock = threading.Lock()
_tf32_wishes: dict[int, list[bool]] = {}  # of each thread inside `allow_tf32`, the innermost last
_tf32_before: list[tuple[_Switch, Any]] = []


@contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Whether CUDA's products and cuDNN's convolutions may use TF32 inside.

    PyTorch allows it for convolutions by default. The settings are the process's: of several
    threads inside, the strictest wins, and the settings are as before when the last one leaves.
    """

    def apply_wishes() -> None:
        strictest = all(wishes[-1] for wishes in _tf32_wishes.values())
        for switch, before in _tf32_before:
            inside = switch.on if strictest else switch.off
            switch.set(inside if _tf32_wishes else before)

    thread = threading.get_ident()
    with _tf32_lock:
        if not _tf32_wishes:
            older, newer = _switches()  # the newer ones come last, as they decide
            values = [(switch, switch.value()) for switch in (*older, *newer)]
            _tf32_before[:] = [(switch, value) for switch, value in values if value is not None]
        _tf32_wishes.setdefault(thread, []).append(allowed)
        apply_wishes()
    try:
        yield
    finally:
        with _tf32_lock:
            _tf32_wishes[thread].pop()
            if not _tf32_wishes[thread]:
                del _tf32_wishes[thread]
            apply_wishes()


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
    """Return the tensor in the type that products have here: autocast's, where it is on.

    Saves casts where one tensor enters many products.
    """
    return tensor.to(compute_dtype(tensor))


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the type that products of a tensor have here: autocast's where it is on, else its
    own."""
    enabled = torch.is_autocast_enabled(tensor.device.type)
    return autocast_dtype(tensor) if enabled else tensor.dtype


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """Return the type of products here, on the device of `tensor`: float32 where autocast is
    off."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
