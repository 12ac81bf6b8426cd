"""Linear layers fused with an activation or a residual sum, through oneDNN on a CPU.

PyTorch computes float32 linear layers by MKL and writes the result to memory before the activation
reads it. oneDNN, which PyTorch includes for convolutions, applies both while the result is in
registers, and its product is faster too: on an AMD EPYC with two cores a ConvNeXt-L trunk takes
7.2 s in place of 8.5 s (logs/speed/benchmark.md). Frozen layers may also multiply whole numbers.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["gelu", "gelu_tanh", "relu"]

# For each activation: our function, oneDNN's name for it, and oneDNN's algorithm.
_ACTIVATIONS: dict[Activation | None, tuple[Callable[[Tensor], Tensor], str, str]] = {
    None: (lambda x: x, "none", ""),
    "gelu": (F.gelu, "gelu", "none"),
    "gelu_tanh": (functools.partial(F.gelu, approximate="tanh"), "gelu", "tanh"),
    "relu": (F.relu, "relu", ""),
}

# The schemas of the operator, which is not public, as of PyTorch 2.14.
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
    """Return the activation of x W^T + bias, or that product plus residual.

    x (..., I), weight (O, I), bias (O), residual (..., O); returns (..., O). Raises `ValueError`
    for both an activation and a residual, which no layer here needs.
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
    """`linear` with the weights of a layer; hooks of the layer do not run."""
    if isinstance(layer, Int8Linear) and x.numel() and runs_fused(x, layer.weight):
        return layer.product(x, activation, residual)
    if isinstance(layer, PrepackedLinear):
        others = [tensor for tensor in (layer.bias, residual) if tensor is not None]
        weight = layer.prepacked if runs_fused(x, *others) else layer.weight
    else:
        weight = layer.weight
    return linear(x, weight, layer.bias, activation=activation, residual=residual)


class PrepackedLinear(nn.Linear):
    """A frozen layer whose weight is prepacked: kept in oneDNN's own layout.

    Otherwise oneDNN reorders the weight at every call, 4 % of the time of a product in ConvNeXt-L
    or SAM ViT-B. The layer still looks like an `nn.Linear`: `weight` and `state_dict` return the
    plain weight, converted each time, and moving, casting or loading the layer makes it an
    `nn.Linear` again.
    """

    prepacked: Tensor

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(O, I): the plain weight."""
        return self.prepacked.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """As of `nn.Linear`."""
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
    """Make a frozen layer a `PrepackedLinear`, in place, if it can run fused."""
    if type(layer) is nn.Linear and runs_fused(*layer.parameters()):
        prepacked = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        del layer.weight
        layer.__class__ = PrepackedLinear
        layer.prepacked = prepacked


class Int8Linear(nn.Linear):
    """A frozen layer that multiplies whole numbers, through oneDNN on a CPU.

    Weights have 8 bits and a scale for each output (O,); inputs are rounded at every call, with
    one scale for all. The float weights stay, so the layer moves, casts and saves as an
    `nn.Linear`; elsewhere than on a CPU in float32 it computes as one.
    """

    packed: Tensor  # (O, I) int8, in oneDNN's own layout
    scales: Tensor
    zeros: Tensor

    def product(self, x: Tensor, activation: Activation | None, residual: Tensor | None) -> Tensor:
        """As `linear`."""
        # Contiguous rows: for other layouts oneDNN's kernel takes hundreds of times as long.
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
        """As of `nn.Linear`."""
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
        """Make the whole numbers of the present weights."""
        weight = self.weight.detach()
        self.scales = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(weight.dtype).tiny)
        numbers = (weight / self.scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(numbers, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)


def _rows(x: Tensor) -> Tensor:
    return x.flatten(0, -2).contiguous()


def whole_numbers(x: Tensor) -> tuple[Tensor, float, int]:
    """Return x as uint8, and the scale and the zero point by which it is (numbers - zero) * scale.

    Sums of two products must fit 16 bits on CPUs that have no instruction for more; there the
    numbers have 7 bits.
    """
    most = 254 if torch.cpu._is_vnni_supported() else 126  # 1 is left for rounding `zero`
    low, high = (float(bound) for bound in torch.aminmax(x))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / most or 1.0
    zero = round(-low / scale)
    # The conversion cuts off what stands behind the point, so this rounds.
    return torch.add(torch.tensor(zero + 0.5), x, alpha=1 / scale).to(torch.uint8), scale, zero


def to_int8(layer: nn.Linear) -> None:
    """Make a frozen layer an `Int8Linear`, in place, if it can run fused."""
    if type(layer) is nn.Linear and runs_fused(*layer.parameters()):
        layer.__class__ = Int8Linear
        Int8Linear.pack(layer)  # type: ignore[arg-type]


def runs_fused(*tensors: Tensor) -> bool:
    """Whether oneDNN computes these: float32 on a CPU, without gradients, autocast or compiling."""
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
    """Whether PyTorch has the operator with the schemas used here, on an x86 CPU with AVX2.

    Other CPUs were not tried.
    """
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operator is None or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    schemas = {str(getattr(operator, name)._schema) for name in operator.overloads()}
    return schemas.issuperset(_SCHEMAS)


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """Return the FLOPs of the operator, for PyTorch's `FlopCounterMode`, which does not know it."""

    def product(x: torch.Size, *others: Any, out_shape: torch.Size, **options: Any) -> int:
        return 2 * math.prod(out_shape) * x[-1]

    return {torch.ops.mkldnn._linear_pointwise: product} if onednn_present() else {}
