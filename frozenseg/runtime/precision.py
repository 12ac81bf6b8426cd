"""The precision in which a model computes, for training and inference.

Operations for which half precision is too coarse (sampling locations, means over many cells, class
logits) opt out of it with `in_float32`.
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
    """The device and the precision of computations on it.

    dtype: dtype of matrix products, convolutions and attention under `autocast`; None: float32.
    int8: whether the linear layers in the blocks of frozen encoders multiply 8-bit integers, on a
        CPU; everything else is float32.
    tf32: whether CUDA rounds the inputs of float32 products and convolutions to TF32, whose
        mantissa has 10 bits, like that of float16. If `dtype` is set, CUDA does so too (see
        `tf32_allowed`).
    """

    device: torch.device
    dtype: torch.dtype | None = None
    tf32: bool = False
    int8: bool = False

    @classmethod
    def choose(cls, device: torch.device, name: str) -> "Precision":
        """Return the precision of this name, for inference.

        name: one of `CHOICES`. "auto" is float32, but on CUDA float16, which is closer to float32
        than bfloat16 and equally fast (docs/guides/gpu.md). Raises `UserError` for an unknown name,
        and for "int8" if the CPU does not support it.
        """
        if name not in CHOICES:
            raise UserError(f"{name}: unknown; {nearest(name, list(CHOICES))}")
        if name == "auto":
            name = "fp16" if device.type == "cuda" else "fp32"
        if name == "int8" and not (device.type == "cpu" and onednn_present()):
            raise UserError(f"int8: runs only on x86 CPUs with AVX2; use {CHOICES[0]}")
        if name == "bf16" and device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
            _warn_of_slow_bfloat16()
        return cls(device, DTYPES[name], tf32=name == "tf32", int8=name == "int8")

    @classmethod
    def for_training(cls, device: torch.device, *, mixed: bool) -> "Precision":
        """Return the precision of training.

        mixed: whether to use mixed precision on CUDA: bfloat16 if the hardware supports it, since
        its gradients need no scaling, otherwise float16. Without it, and on other devices, the
        precision is float32.
        """
        if not mixed or device.type != "cuda":
            return cls(device)
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return cls(device, torch.bfloat16 if native else torch.float16)

    @property
    def name(self) -> str:
        """The name of this precision, a key of `DTYPES`."""
        if self.tf32 or self.int8:
            return "tf32" if self.tf32 else "int8"
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def tf32_allowed(self) -> bool:
        """Whether products that stay in float32 may use TF32 on CUDA.

        With a half-precision `dtype` they may: most of their inputs were in half precision before
        and lose nothing, the others lose no more than they would in half precision, and sums stay
        in float32.
        """
        return self.tf32 or self.dtype is not None

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Enable PyTorch's autocast with this dtype, and on CUDA `float32_products` as well."""
        with self.float32_products():
            if self.dtype is None:
                yield
            else:
                with torch.autocast(self.device.type, dtype=self.dtype):
                    yield

    def float32_products(self) -> AbstractContextManager[Any]:
        """Within the `with` block, switch TF32 on or off for float32 products on CUDA (see
        `tf32_allowed`)."""
        return allow_tf32(self.tf32_allowed) if self.device.type == "cuda" else nullcontext()


@functools.cache  # warns only once
def _warn_of_slow_bfloat16() -> None:
    logger.warning("bf16: this CPU has no instructions for it; fp32 is several times faster here")


class _Switch(NamedTuple):
    """A setting of the process that decides whether float32 may be rounded to TF32."""

    backend: Any
    attribute: str
    on: Any
    off: Any

    def value(self) -> Any:
        """Return the value, or None: PyTorch refuses to read its older settings if the newer ones
        disagree."""
        try:
            return getattr(self.backend, self.attribute)
        except RuntimeError:
            return None

    def set(self, value: Any) -> None:
        setattr(self.backend, self.attribute, value)


def _switches() -> tuple[list[_Switch], list[_Switch]]:
    """Return PyTorch's older settings for products and cuDNN, and the newer ones (since 2.9)."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    older = [_Switch(backend, "allow_tf32", True, False) for backend in (matmul, cudnn)]
    if not hasattr(matmul, "fp32_precision"):
        return older, []
    backends = (matmul, cudnn.conv, cudnn.rnn)
    return older, [_Switch(backend, "fp32_precision", "tf32", "ieee") for backend in backends]


def tf32_settings() -> tuple[bool, ...]:
    """Return whether TF32 may be used now: first by CUDA's products, then by cuDNN's operations."""
    older, newer = _switches()
    return tuple(switch.value() == switch.on for switch in newer or older)


_tf32_lock = threading.Lock()
_tf32_wishes: dict[int, list[bool]] = {}  # by thread inside `allow_tf32`, the innermost last
_tf32_before: list[tuple[_Switch, Any]] = []


@contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Set whether CUDA's products and cuDNN's convolutions may use TF32 in the `with` block.

    PyTorch allows it for convolutions by default. The settings belong to the process: if several
    threads are in such blocks, TF32 is off unless all of them allow it, and when the last thread
    leaves, the settings are restored.
    """

    def apply_wishes() -> None:
        strictest = all(wishes[-1] for wishes in _tf32_wishes.values())
        for switch, before in _tf32_before:
            inside = switch.on if strictest else switch.off
            switch.set(inside if _tf32_wishes else before)

    thread = threading.get_ident()
    with _tf32_lock:
        if not _tf32_wishes:
            older, newer = _switches()  # the newer ones come last, since they take precedence
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
    """Switch autocast off in the `with` block, on the device of `tensor`."""
    return torch.autocast(tensor.device.type, enabled=False)


def in_type_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Switch autocast off in the `with` block if `tensor` is in half precision.

    A module whose input and weights are in half precision computes in it without casts; for a
    module with float32 weights, autocast chooses the dtype.
    """
    return nullcontext() if tensor.dtype == torch.float32 else in_float32(tensor)


def in_compute_type(tensor: Tensor) -> Tensor:
    """Return the tensor in the dtype of matrix products: autocast's dtype if autocast is on.

    This saves casts if one tensor enters many products.
    """
    return tensor.to(compute_dtype(tensor))


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of matrix products with a tensor: autocast's dtype if autocast is on,
    otherwise the tensor's own."""
    enabled = torch.is_autocast_enabled(tensor.device.type)
    return autocast_dtype(tensor) if enabled else tensor.dtype


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """Return autocast's dtype on the device of `tensor`, or float32 if autocast is off."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
