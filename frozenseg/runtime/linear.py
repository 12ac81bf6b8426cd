"""Linear layers fused with an activation or a residual sum, by oneDNN on a CPU.

PyTorch computes float32 linear layers by MKL and writes the result to memory before the activation
reads it. oneDNN, which PyTorch includes for convolutions, applies the activation while the result
is in registers, and its matrix product is faster too: on an AMD EPYC with two cores, a ConvNeXt-L
trunk takes 7.2 s instead of 8.5 s (logs/speed/benchmark.md). Frozen layers may also use 8-bit
integers.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["gelu", "gelu_tanh", "relu"]

# For each activation: PyTorch's function, oneDNN's name for it, and oneDNN's algorithm.
_ACTIVATIONS: dict[Activation | None, tuple[Callable[[Tensor], Tensor], str, str]] = {
    None: (lambda x: x, "none", ""),
    "gelu": (F.gelu, "gelu", "none"),
    "gelu_tanh": (functools.partial(F.gelu, approximate="tanh"), "gelu", "tanh"),
    "relu": (F.relu, "relu", ""),
}

# The schemas of the operator in PyTorch 2.14; it is not public.
_SCHEMAS = (
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
    """Return the activation of x W^T + bias, or x W^T + bias + residual.

    x (..., I), weight (O, I), bias (O), residual (..., O); returns (..., O). Raises `ValueError` if
    both an activation and a residual are given, which no layer here needs.
    """
    if activation is not None and residual is not None:
        raise ValueError("give either an activation or a residual")
    function, name, algorithm = _ACTIVATIONS[activation]
    if runs_fused(x, weight, *(t for t in (bias, residual) if t is not None)):
        operator = torch.ops.mkldnn._linear_pointwise
        if residual is not None:
            return operator.binary(x, residual, weight, bias, "add")
        return operator(x, weight, bias, name, [], algorithm)
    product = function(F.linear(x, weight, bias))
    return product if residual is None else product + residual


def apply_linear(
    layer: nn.Linear,
    x: Tensor,
    *,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Compute `linear` with the weights of a layer; hooks of the layer do not run."""
    if isinstance(layer, Int8Linear) and x.numel() and runs_fused(x, layer.weight):
        return layer.product(x, activation, residual)
    if isinstance(layer, PrepackedLinear):
        others = [tensor for tensor in (layer.bias, residual) if tensor is not None]
        weight = layer.prepacked if runs_fused(x, *others) else layer.weight
    else:
        weight = layer.weight
    return linear(x, weight, layer.bias, activation=activation, residual=residual)


class PrepackedLinear(nn.Linear):
    """A frozen layer whose weight is prepacked, i.e. stored in oneDNN's own memory layout.

    Without prepacking, oneDNN reorders the weight at every call, which is 4 % of the time of a
    product in ConvNeXt-L or SAM ViT-B. The layer still looks like an `nn.Linear`: `weight` and
    `state_dict` return the plain weight, converted each time, and moving, casting or loading the
    layer turns it into an `nn.Linear` again.
    """

    prepacked: Tensor

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The plain weight (O, I)."""
        return self.prepacked.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """See `nn.Linear`."""
        return apply_linear(self, x)

    def restore(self) -> None:
        """Become an `nn.Linear` again."""
        weight = self.weight
        del self.prepacked
        self.__class__ = nn.Linear  # type: ignore[assignment]
        self.register_parameter("weight", nn.Parameter(weight, requires_grad=False))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle as an `nn.Linear`, because oneDNN's layout supports neither."""
        attributes = {name: value for name, value in self.__dict__.items() if name != "prepacked"}
        return _plain_linear, (attributes, self.weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self.restore()
        return self._apply(fn, recurse)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[prefix + "weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.restore()
        self._load_from_state_dict(*arguments)


def _plain_linear(attributes: dict[str, Any], weight: Tensor) -> nn.Linear:
    layer = nn.Linear.__new__(nn.Linear)
    layer.__dict__.update(attributes, _parameters=dict(attributes["_parameters"]))
    layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    return layer


def prepack(layer: nn.Linear) -> None:
    """Turn a frozen layer into a `PrepackedLinear`, in place, if it can run fused."""
    if type(layer) is nn.Linear and runs_fused(*layer.parameters()):
        prepacked = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        del layer.weight
        layer.__class__ = PrepackedLinear
        layer.prepacked = prepacked


class Int8Linear(nn.Linear):
    """A frozen layer that multiplies 8-bit integers, by oneDNN on a CPU.

    Weights have 8 bits and a scale for each output (O,); inputs are quantised at every call, with
    one scale for all values. The float weights are kept, so the layer can be moved, cast and saved
    like an `nn.Linear`; unless it runs on a CPU in float32, it computes like one.
    """

    packed: Tensor  # (O, I) int8, in oneDNN's own layout
    scales: Tensor
    zeros: Tensor

    def product(self, x: Tensor, activation: Activation | None, residual: Tensor | None) -> Tensor:
        """Compute `linear` with 8-bit integers."""
        # The rows must be contiguous: oneDNN's kernel is hundreds of times slower otherwise.
        numbers, scale, zero = whole_numbers(_rows(x))
        about = (numbers, scale, zero, self.packed, self.scales, self.zeros)
        out = (1.0, 0, torch.float32)
        operator = torch.ops.onednn.qlinear_pointwise
        if residual is None:
            _, name, algorithm = _ACTIVATIONS[activation]
            rows = operator(*about, self.bias, *out, name, [], algorithm)
        else:
            other: tuple[Any, ...] = (1.0, 0, "add", 1.0, "none", [], "")
            rows = operator.binary(*about, _rows(residual), self.bias, *out, *other)
        return rows.unflatten(0, x.shape[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """See `nn.Linear`."""
        return apply_linear(self, x)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle as an `nn.Linear`, because oneDNN's layout supports neither."""
        own = ("packed", "scales", "zeros")
        attributes = {name: value for name, value in self.__dict__.items() if name not in own}
        return _plain_linear, (attributes, self.weight.detach())

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.pack()

    def pack(self) -> None:
        """Quantise the current weights."""
        weight = self.weight.detach()
        self.scales = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(weight.dtype).tiny)
        numbers = (weight / self.scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(numbers, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)


def _rows(x: Tensor) -> Tensor:
    return x.flatten(0, -2).contiguous()


def whole_numbers(x: Tensor) -> tuple[Tensor, float, int]:
    """Quantise x to uint8: return numbers, scale and zero, with x about (numbers - zero) * scale.

    On CPUs without VNNI instructions, sums of two products must fit into 16 bits, so there the
    numbers have 7 bits.
    """
    most = 254 if torch.cpu._is_vnni_supported() else 126  # 1 is left for rounding `zero`
    low, high = (float(bound) for bound in torch.aminmax(x))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / most or 1.0
    zero = round(-low / scale)
    # The conversion truncates, so adding 0.5 makes it round.
    return torch.add(torch.tensor(zero + 0.5), x, alpha=1 / scale).to(torch.uint8), scale, zero


def to_int8(layer: nn.Linear) -> None:
    """Turn a frozen layer into an `Int8Linear`, in place, if it can run fused."""
    if type(layer) is nn.Linear and runs_fused(*layer.parameters()):
        layer.__class__ = Int8Linear
        Int8Linear.pack(layer)  # type: ignore[arg-type]


def runs_fused(*tensors: Tensor) -> bool:
    """Return whether oneDNN is used: float32 on a CPU, without gradients, autocast or compiling."""
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
    """Return whether PyTorch has the operator with these schemas, on an x86 CPU with AVX2.

    Other CPUs have not been tested.
    """
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operator is None or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    schemas = {str(getattr(operator, name)._schema) for name in operator.overloads()}
    return schemas.issuperset(_SCHEMAS)


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """Return a FLOP formula for the operator, which PyTorch's `FlopCounterMode` does not know."""

    def product(x: torch.Size, *others: Any, out_shape: torch.Size, **options: Any) -> int:
        return 2 * math.prod(out_shape) * x[-1]

    return {torch.ops.mkldnn._linear_pointwise: product} if onednn_present() else {}
