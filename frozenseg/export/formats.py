"""The formats of an exported graph: how each is written, and how its file is run for the check."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from frozenseg.errors import UserError
from frozenseg.export.graph import INPUTS, KEY, write_about, write_onnx
from frozenseg.export.precision import PRECISIONS, lower_precision
from frozenseg.export.session import Session

Run = Callable[[tuple[Tensor, ...]], dict[str, np.ndarray]]
"""From the inputs of a graph (`Case.inputs`) to its outputs by name."""


@dataclass(frozen=True)
class Format:
    """A format.

    suffix: of its files.
    write: writes a traced program; `about` goes into the file.
    run: opens a file for the check.
    precisions: what it can be written in.
    note: replaces `about` in a file that has been checked; None where it cannot.
    """

    suffix: str
    write: Callable[[ExportedProgram, Path, Sequence[str], Mapping[str, Any]], None]
    run: Callable[[Path, Sequence[str]], Run]
    precisions: tuple[str, ...] = ("fp32",)
    note: Callable[[Path, Mapping[str, Any]], None] | None = None


def _write_onnx(
    program: ExportedProgram, path: Path, outputs: Sequence[str], about: Mapping[str, Any]
) -> None:
    write_onnx(program, path, inputs=INPUTS, outputs=outputs, about=about)
    if about["precision"] != "fp32":
        lower_precision(path, about["precision"])


def _run_onnx(path: Path, outputs: Sequence[str]) -> Run:
    session = Session(path)

    def run(inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
        named = zip(INPUTS, inputs, strict=True)
        return session({name: tensor.numpy() for name, tensor in named})

    return run


def _write_torch(
    program: ExportedProgram, path: Path, outputs: Sequence[str], about: Mapping[str, Any]
) -> None:
    with open(path, "wb") as file:
        torch.export.save(program, file, extra_files={KEY: json.dumps(about)})


def _write_compiled(
    program: ExportedProgram, path: Path, outputs: Sequence[str], about: Mapping[str, Any]
) -> None:
    about_text = {f"aot_inductor.{KEY}": json.dumps(about)}
    try:
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={"aot_inductor.metadata": about_text},
        )
    except RuntimeError as error:
        line = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: AOTInductor cannot compile the model here ({line})") from None


def _named(module: Callable[..., Sequence[Tensor]], outputs: Sequence[str]) -> Run:
    @torch.no_grad()
    def run(inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
        found = (tensor.numpy() for tensor in module(*inputs))
        return dict(zip(outputs, found, strict=True))

    return run


def _run_torch(path: Path, outputs: Sequence[str]) -> Run:
    with open(path, "rb") as file:
        return _named(torch.export.load(file).module(), outputs)


def _run_compiled(path: Path, outputs: Sequence[str]) -> Run:
    return _named(torch._inductor.aoti_load_package(str(path)), outputs)


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _run_onnx, PRECISIONS, write_about),
    "torch": Format(".pt2", _write_torch, _run_torch),
    "aoti": Format(".pt2", _write_compiled, _run_compiled),
}
