"""The formats of exported graphs: how each is written, and how its file is run for the check."""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from frozenseg.errors import UserError
from frozenseg.export import openvino
from frozenseg.export.graph import KEY, write_about, write_onnx
from frozenseg.export.precision import PRECISIONS, lower_precision
from frozenseg.export.session import Session

Run = Callable[[dict[str, Tensor]], dict[str, np.ndarray]]
"""Maps the inputs of a graph (`Case.inputs`) to its outputs, by name."""


@dataclass(frozen=True)
class Format:
    """A file format.

    suffix: the suffix of its files.
    write: writes a traced program and `about` into a file.
    run: opens a file for the check.
    note: adds the "agreement" of `about` to the metadata of a file that has been checked.
    precisions: the precisions that the format supports.
    beside: the suffixes of further files that `write` makes beside the named one.
    """

    suffix: str
    write: Callable[[ExportedProgram, Path, Sequence[str], Mapping[str, Any]], None]
    run: Callable[[Path, Sequence[str]], Run]
    note: Callable[[Path, Mapping[str, Any]], None]
    precisions: tuple[str, ...] = ("fp32",)
    beside: tuple[str, ...] = ()


def _write_onnx(
    program: ExportedProgram, path: Path, outputs: Sequence[str], about: Mapping[str, Any]
) -> None:
    write_onnx(program, path, outputs, about)
    if about["precision"] != "fp32":
        lower_precision(path, about["precision"])


def _run_onnx(path: Path, outputs: Sequence[str]) -> Run:
    return _by_arrays(Session(path))


def _write_openvino(
    program: ExportedProgram, path: Path, outputs: Sequence[str], about: Mapping[str, Any]
) -> None:
    # A large ONNX graph has a separate file of weights, so the entire folder is temporary.
    with TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        source = Path(folder) / "graph.onnx"
        _write_onnx(program, source, outputs, about)
        openvino.write_openvino(source, path, about)


def _run_openvino(path: Path, outputs: Sequence[str]) -> Run:
    return _by_arrays(openvino.OpenVinoSession(path))


def _by_arrays(session: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Run:
    return lambda inputs: session({name: tensor.numpy() for name, tensor in inputs.items()})


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


def _note_in_archive(path: Path, about: Mapping[str, Any]) -> None:
    """Add the agreement as a new entry, because an entry of an archive cannot be replaced."""
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/extra/{AGREEMENT}", json.dumps(about["agreement"]))


def _named(module: Callable[..., Sequence[Tensor]], outputs: Sequence[str]) -> Run:
    @torch.no_grad()
    def run(inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
        found = (tensor.numpy() for tensor in module(**inputs))
        return dict(zip(outputs, found, strict=True))

    return run


def _run_torch(path: Path, outputs: Sequence[str]) -> Run:
    with open(path, "rb") as file:
        return _named(torch.export.load(file).module(), outputs)


def _run_compiled(path: Path, outputs: Sequence[str]) -> Run:
    return _named(torch._inductor.aoti_load_package(str(path)), outputs)


AGREEMENT = f"{KEY}_agreement"
"""The entry of a .pt2 file that says, as JSON, how closely it agrees with the model."""
FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _run_onnx, write_about, PRECISIONS),
    "openvino": Format(
        openvino.SUFFIX,
        _write_openvino,
        _run_openvino,
        openvino.write_about,
        PRECISIONS,
        beside=(openvino.WEIGHTS,),
    ),
    "torch": Format(".pt2", _write_torch, _run_torch, _note_in_archive),
    "aoti": Format(".pt2", _write_compiled, _run_compiled, _note_in_archive),
}
