"""Compile our Triton kernels for GPUs that are not here; see `test_compile_triton.py`.

Run as a module, it compiles them with the Triton that it finds, and ends with status 1 and what
fails. It needs no PyTorch.
"""

import inspect
import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from frozenseg.inference import scan_kernels
from frozenseg.models import ms_deform_kernels
from frozenseg.runtime import channels_last_kernels

CAPABILITIES = (80, 90)
HEAD_CHANNELS = (4, 8, 16, 20, 32, 64, 128)
TRUNK_CHANNELS = (20, 192, 768, 1536)
# Types of the value (as of output and its gradient), the locations and the weights: in float32,
# under autocast, which leaves positions and a softmax in float32, and all in half precision.
KINDS = {
    "fp32": ("fp32", "fp32", "fp32"),
    "fp16 autocast": ("fp16", "fp32", "fp32"),
    "bf16 autocast": ("bf16", "fp32", "fp32"),
    "fp16": ("fp16", "fp16", "fp16"),
    "bf16": ("bf16", "bf16", "bf16"),
}
INTEGERS = ("level_table", "first_cells", "order", "slots", "winner", "histograms", "counts", "ids")


@dataclass(frozen=True)
class Case:
    """One kernel as it is launched.

    types: of its arguments by name; the others are whole numbers.
    aligned: whether addresses and sizes are as PyTorch's own are, which 16 divides.
    odd: sizes that 16 does not divide all the same.
    """

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    aligned: bool = True
    odd: tuple[str, ...] = ()
    capability: int = 90
    options: dict[str, int] = field(default_factory=dict)

    def compile(self) -> None:
        target = GPUTarget("cuda", self.capability, 32)
        compiled = triton.compile(self._source(), target=target, options=self.options)
        assert compiled.asm["cubin"]

    def __str__(self) -> str:
        return f"{self.kernel.fn.__name__} {self.types} {self.constants} sm_{self.capability}"

    def _source(self) -> ASTSource:
        names = [parameter.name for parameter in self.kernel.params]
        signature = {name: self._type(name) for name in names}
        specialised = [
            index
            for index, name in enumerate(names)
            if self.aligned and name not in self.constants and name not in self.odd
            if self._type(name) != "fp32"
        ]
        if "constexprs" in inspect.signature(ASTSource.__init__).parameters:
            return ASTSource(
                self.kernel,
                signature,
                constexprs={(names.index(name),): n for name, n in self.constants.items()},
                attrs={(index,): [["tt.divisibility", 16]] for index in specialised},
            )
        # Triton before 3.3
        from triton.backends.compiler import AttrsDescriptor

        signature = {name: kind for name, kind in signature.items() if kind != "constexpr"}
        hints = AttrsDescriptor.from_hints(dict.fromkeys(specialised, 16))
        return ASTSource(self.kernel, signature, self.constants, hints)

    def _type(self, name: str) -> str:
        if name in self.constants:
            return "constexpr"
        return self.types.get(name, "*i32" if name in INTEGERS else "i32")


def deformable(kind: str, channels: int, aligned: bool, capability: int) -> Iterator[Case]:
    value, locations, weights = (f"*{name}" for name in KINDS[kind])
    types = {"value": value, "output": value, "grad": value, "grad_value": "*fp32"}
    types |= {"locations": locations, "grad_locations": locations}
    types |= {"weights": weights, "grad_weights": weights}
    block = triton.next_power_of_2(channels)
    constants = {"LEVELS": 3, "POINTS": 4, "CHANNELS": channels}
    constants |= {"BLOCK_CHANNELS": block, "BLOCK_BAGS": 512 // block}
    for kernel in (ms_deform_kernels.deformable_forward, ms_deform_kernels.deformable_backward):
        yield Case(kernel, types, constants, aligned, ("heads",), capability)


def norms(kind: str, capability: int) -> Iterator[Case]:
    names = ("maps", "taps", "bias", "scale", "shift", "output")
    types = dict.fromkeys(names, f"*{kind}") | {"sums": "*fp32", "factors": "*fp32", "eps": "fp32"}
    kernels = channels_last_kernels
    for channels in TRUNK_CHANNELS:
        block = triton.next_power_of_2(channels)
        constants = {"CHANNELS": channels, "BLOCK_CHANNELS": block}
        constants["BLOCK_COLUMNS"] = max(1, 1024 // block)
        options = {"num_warps": 4 if block <= 1024 else 8}
        yield Case(kernels.depthwise_norm, types, constants, capability=capability, options=options)
    eight = {"capability": capability, "options": {"num_warps": 8}}
    for kernel, constants in (
        (kernels.group_sums, {"BLOCK_CELLS": 32, "PARTS": 256}),
        (kernels.group_factors, {"GROUP": 8, "PARTS": 256, "BLOCK_CHANNELS": 32}),
        (kernels.scale_and_shift, {"BLOCK_CELLS": 32, "RELU": True}),
    ):
        yield Case(kernel, types, {"CHANNELS": 256, **constants}, **eight)


def scans(capability: int) -> Iterator[Case]:
    types = dict.fromkeys(("cells", "shares", "factors", "sums"), "*fp32")
    types |= dict.fromkeys(("masks", "in_columns"), "*i8") | dict.fromkeys(
        ("probs", "weights"), "*fp16"
    )
    types["threshold"] = "fp32"
    for kernel, constants in (
        (scan_kernels.find_owners, {"BINS": 256, "BLOCK_COLUMNS": 256}),
        (
            scan_kernels.measure_masks,
            {"WRITE_PROBS": True, "BLOCK_ROWS": 16, "BLOCK_COLUMNS": 256},
        ),
        (
            scan_kernels.find_classes,
            {"BLOCK_CLASSES": 128, "BLOCK_QUERIES": 32, "BLOCK_PIXELS": 128},
        ),
    ):
        yield Case(kernel, types, constants, odd=("queries", "columns"), capability=capability)


def cases(kinds: Iterable[str]) -> Iterator[Case]:
    """All kernels. kinds: names of `KINDS`, for deformable attention; the first is the norms'."""
    kinds = list(kinds)
    for capability in CAPABILITIES:
        yield from scans(capability)
        for kind in ("fp16", "bf16") if len(kinds) > 1 else ("fp16",):
            yield from norms(kind, capability)
        for kind, channels, aligned in itertools.product(kinds, HEAD_CHANNELS, (True, False)):
            yield from deformable(kind, channels, aligned, capability)


def failures(some: Iterable[Case]) -> list[str]:
    """One line for each case that does not compile."""
    lines = []
    for case in some:
        try:
            case.compile()
        # The compiler's errors have no common class; each is told of.
        except Exception as error:
            lines.append(f"{case}: {type(error).__name__}: {error}")
    return lines


if __name__ == "__main__":
    found = failures(cases(sys.argv[1:] or KINDS))
    sys.stdout.write(f"Triton {triton.__version__}: {len(found)} failures\n")
    sys.exit("\n".join(found) or None)
