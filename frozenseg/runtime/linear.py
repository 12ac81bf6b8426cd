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
    if isinstance(layer, PackedLinear):
        others = [tensor for tensor in (layer.bias, residual) if tensor is not None]
        weight = layer.packed if runs_fused(x, *others) else layer.weight
    else:
        weight = layer.weight
    return linear(x, weight, layer.bias, activation=activation, residual=residual)


class PackedLinear(nn.Linear):
    """A layer that only predicts, its weight kept in oneDNN's own layout, into which it is copied
    at every call otherwise (4 % of the time of a product in ConvNeXt-L or SAM ViT-B).

    To others it is an `nn.Linear`: `weight` and `state_dict` give the plain weight, made anew each
    time; a layer that is moved, cast or loaded is a plain one again.
    """

    packed: Tensor

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(O, I): the plain weight."""
        return self.packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        return apply_linear(self, x)

    def unpack(self) -> None:
        """Become an `nn.Linear` again."""
        weight = self.weight
        del self.packed
        self.__class__ = nn.Linear  # type: ignore[assignment]
        self.register_parameter("weight", nn.Parameter(weight, requires_grad=False))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy, and what is pickled, is plain: oneDNN's layout bears neither."""
        attributes = {name: held for name, held in self.__dict__.items() if name != "packed"}
        return _plain_linear, (attributes, self.weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self.unpack()
        return self._apply(fn, recurse)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[prefix + "weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.unpack()
        self._load_from_state_dict(*arguments)


def _plain_linear(attributes: dict[str, Any], weight: Tensor) -> nn.Linear:
    layer = nn.Linear.__new__(nn.Linear)
    layer.__dict__.update(attributes, _parameters=dict(attributes["_parameters"]))
    layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    return layer


def pack(layer: nn.Linear) -> None:
    """Make a frozen layer a `PackedLinear`, in place, where it can run fused."""
    if type(layer) is nn.Linear and runs_fused(*layer.parameters()):
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        del layer.weight
        layer.__class__ = PackedLinear
        layer.packed = packed


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
