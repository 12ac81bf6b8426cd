"""Compile the kernels of deformable attention for GPUs that are not here; see
`test_ms_deform_triton.py`.

Run as a module, it compiles them with the Triton that it finds, and ends with status 1 and what
fails. It needs no PyTorch.
"""

import inspect
import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from frozenseg.models.ms_deform_kernels import deformable_backward, deformable_forward

CHANNELS = (4, 8, 16, 20, 32, 64, 128)  # a head
CAPABILITIES = (80, 90)
TILE = 512
# Types of the value (as of output and its gradient), the locations and the weights: in float32,
# under autocast, which leaves positions and a softmax in float32, and all in half precision.
KINDS = {
    "fp32": ("fp32", "fp32", "fp32"),
    "fp16 autocast": ("fp16", "fp32", "fp32"),
    "bf16 autocast": ("bf16", "fp32", "fp32"),
    "fp16": ("fp16", "fp16", "fp16"),
    "bf16": ("bf16", "bf16", "bf16"),
}
KERNELS = {"forward": deformable_forward, "backward": deformable_backward}


@dataclass(frozen=True)
class Case:
    """aligned: as PyTorch's own tensors are, whose addresses, and here sizes, 16 divides."""

    kernel: str
    channels: int
    aligned: bool
    kind: str = "fp32"
    capability: int = 90

    def compile(self) -> None:
        source = self._source(KERNELS[self.kernel])
        compiled = triton.compile(source, target=GPUTarget("cuda", self.capability, 32))
        assert compiled.asm["cubin"]

    def _source(self, kernel: Any) -> ASTSource:
        names = [parameter.name for parameter in kernel.params]
        constants = self._constants()
        signature = {name: self._type(name) for name in names}
        specialised = [
            index
            for index, name in enumerate(names)
            if self.aligned and name not in constants and name != "heads"
        ]
        if "constexprs" in inspect.signature(ASTSource.__init__).parameters:
            return ASTSource(
                kernel,
                signature,
                constexprs={(names.index(name),): number for name, number in constants.items()},
                attrs={(index,): [["tt.divisibility", 16]] for index in specialised},
            )
        # Triton before 3.3
        from triton.backends.compiler import AttrsDescriptor

        signature = {name: kind for name, kind in signature.items() if kind != "constexpr"}
        hints = AttrsDescriptor.from_hints(dict.fromkeys(specialised, 16))
        return ASTSource(kernel, signature, constants, hints)

    def _constants(self) -> dict[str, int]:
        block = triton.next_power_of_2(self.channels)
        return {
            "LEVELS": 3,
            "POINTS": 4,
            "CHANNELS": self.channels,
            "BLOCK_CHANNELS": block,
            "BLOCK_BAGS": TILE // block,
        }

    def _type(self, name: str) -> str:
        if name in self._constants():
            return "constexpr"
        value, locations, weights = (f"*{kind}" for kind in KINDS[self.kind])
        types = {"level_table": "*i32", "value": value, "output": value, "grad": value}
        types |= {"locations": locations, "grad_locations": locations, "grad_value": "*fp32"}
        types |= {"weights": weights, "grad_weights": weights}
        return types.get(name, "i32")


def cases(kinds: Iterable[str], capabilities: Iterable[int]) -> Iterator[Case]:
    for row in itertools.product(KERNELS, CHANNELS, (True, False), kinds, capabilities):
        yield Case(*row)


def failures(kinds: Iterable[str]) -> list[str]:
    """One line for each case that does not compile. kinds: names of `KINDS`; none are all."""
    lines = []
    for case in cases(kinds or KINDS, CAPABILITIES):
        try:
            case.compile()
        # The compiler's errors have no common class; each is told of.
        except Exception as error:
            lines.append(f"{case}: {type(error).__name__}: {error}")
    return lines


if __name__ == "__main__":
    found = failures(sys.argv[1:])
    sys.stdout.write(f"Triton {triton.__version__}: {len(found)} failures\n")
    sys.exit("\n".join(found) or None)
