"""A linear layer with what follows it: activation, or sum with a residual, in one pass on a CPU.

PyTorch hands float32 linear layers to MKL and writes the result out before the activation reads it
again. oneDNN, which PyTorch brings along for convolutions, applies both while the result is in
registers, and is faster in the product itself: on an AMD EPYC with two cores a ConvNeXt-L trunk
takes 7.2 s in place of 8.5 (logs/speed/benchmark.md).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["gelu", "gelu_tanh", "relu"]

# What each is here, and to oneDNN: its name and the form of it.
_ACTIVATIONS: dict[Activation | None, tuple[Callable[[Tensor], Tensor], str, str]] = {
    None: (lambda x: x, "none", ""),
    "gelu": (F.gelu, "gelu", "none"),
    "gelu_tanh": (functools.partial(F.gelu, approximate="tanh"), "gelu", "tanh"),
    "relu": (F.relu, "relu", ""),
}

_FORMS = (  # of the operator, which is not public: as they are in PyTorch 2.14
    "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, "
    "str? algorithm) -> Tensor Y",
    "mkldnn::_linear_pointwise.binary(Tensor X, Tensor other, Tensor W, Tensor? B, str attr) "
    "-> Tensor Y",
)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """x (..., I), weight (O, I), bias (O) -> (..., O): activation of the product, plus residual.

    residual: (..., O). It and `activation` exclude each other: no layer here needs both.
    """
    if activation is not None and residual is not None:
        raise ValueError("either an activation or a residual")
    function, name, form = _ACTIVATIONS[activation]
    if runs_fused(x, weight, *(t for t in (bias, residual) if t is not None)):
        operator = torch.ops.mkldnn._linear_pointwise
        if residual is not None:
            return operator.binary(x, residual, weight, bias, "add")
        return operator(x, weight, bias, name, [], form)
    product = function(F.linear(x, weight, bias))
    return product if residual is None else product + residual


def apply_linear(
    layer: nn.Linear,
    x: Tensor,
    *,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """`linear` with the weights of a layer; hooks of the layer do not run."""
    return linear(x, layer.weight, layer.bias, activation=activation, residual=residual)


def runs_fused(*tensors: Tensor) -> bool:
    """Whether oneDNN can take these: float32 on a CPU, without gradients, autocast or compiling."""
    return (
        all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        and bool(torch.backends.mkldnn.enabled)
        and onednn_present()
    )


@functools.cache
def onednn_present() -> bool:
    """Whether this PyTorch has the operator in the form used here, on an x86 CPU with AVX2 at least
    (elsewhere it was not tried)."""
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operator is None or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    found = {str(getattr(operator, name)._schema) for name in operator.overloads()}
    return found.issuperset(_FORMS)


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """For PyTorch's `FlopCounterMode`, which does not know the operator."""

    def product(x: torch.Size, *others: Any, out_shape: torch.Size, **options: Any) -> int:
        return 2 * math.prod(out_shape) * x[-1]

    return {torch.ops.mkldnn._linear_pointwise: product} if onednn_present() else {}
