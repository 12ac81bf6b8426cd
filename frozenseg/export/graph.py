"""From a model to a file: trace it with `torch.export`, and write the graph as ONNX."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from frozenseg.errors import UserError, import_extra
from frozenseg.export.results import OUTPUTS, Results
from frozenseg.models.ms_deform_loop import loop_over_levels
from frozenseg.structures import TextEmbeddings

KEY = "frozenseg"
"""The entry of a file's metadata that holds what this package writes about it, as JSON."""
OPSET = 20
NEEDS = "an ONNX file"


@dataclass(frozen=True)
class Case:
    """One set of inputs of a graph.

    name: for messages.
    pixels: (1, 3, H, W) RGB, 0-255.
    size: (height, width) of the image within `pixels`.
    text, is_thing: the requested classes; is_thing is (K,) bool.
    usual: whether the image and the classes are typical of use, and not an extreme case.
    embedding, regions: see `Network.forward`.
    """

    name: str
    pixels: Tensor
    size: tuple[int, int]
    text: TextEmbeddings
    is_thing: Tensor
    usual: bool = True
    embedding: Tensor | None = None
    regions: Tensor | None = None

    def inputs(self) -> dict[str, Tensor]:
        """Return the arguments of `Results.forward`, in their order."""
        text = self.text
        given = {
            "pixels": self.pixels,
            "size": torch.tensor(self.size),
            "vectors": text.weight,
            "class_index": text.class_index,
            "seen": text.seen,
            "is_thing": self.is_thing,
            "embedding": self.embedding,
            "regions": self.regions,
        }
        return {name: tensor for name, tensor in given.items() if tensor is not None}


def names_of_outputs(wanted: Sequence[str], *, regions: bool = False) -> list[str]:
    """Return the names of a graph's outputs.

    wanted: see `Results`. regions: whether the graph takes regions.
    """
    groups = ["logits", *(["regions"] if regions else []), *wanted]
    return [name for group in groups for name in OUTPUTS[group]]


@torch.no_grad()
def traced(results: Results, case: Case) -> ExportedProgram:
    """Trace a network with its results.

    All sizes are fixed to those of the case, except the number of regions with their size, and the
    numbers of classes and names if the network has `free_classes`.
    """
    inputs = case.inputs()
    free: dict[str, dict[int, Any]] = {}
    if results.network.free_classes:
        classes, names = Dim("classes", min=1, max=1 << 20), Dim("names", min=1, max=1 << 20)
        free = {"vectors": {0: names}, "class_index": {0: names}}
        free |= {"seen": {0: classes}, "is_thing": {0: classes}}
    free["regions"] = {axis: Dim.DYNAMIC for axis in range(3)}
    # The model caches tables of positions. This call fills the cache with real tensors; otherwise
    # the trace would fill it with its symbolic tensors, which later calls could not use.
    results.eval()(**inputs)
    shapes = {name: free.get(name, {}) for name in inputs}
    program = torch.export.export(results, (), inputs, dynamic_shapes=shapes, strict=False)
    return program.run_decompositions({torch.ops.frozenseg.deformable_gather.default: _sampled})


def _sampled(
    value: Tensor, heights: list[int], widths: list[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute `deformable_gather`, an operator of this package, with operators of PyTorch."""
    return loop_over_levels(value, list(zip(heights, widths, strict=True)), locations, weights)


def write_onnx(
    program: ExportedProgram,
    path: Path,
    outputs: Sequence[str],
    about: Mapping[str, Any],
    *,
    inputs: Sequence[str] | None = None,
) -> None:
    """Write a traced program as ONNX, with `about` in its metadata.

    inputs: the names of the inputs; None: those in the program.

    The exporter's optimiser is switched off: it simplifies x + 1e-8 to x, so that the logarithm of
    a probability of 0 becomes -infinity. Only constants are folded.
    """
    import_extra("onnx", "onnx", NEEDS)
    optimizer = import_extra("onnxscript.optimizer", "onnx", NEEDS)
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        optimize=False,
        input_names=list(inputs or program.graph_signature.user_inputs),
        output_names=list(outputs),
        verbose=False,
    )
    assert exported is not None, "dynamo gives a program"
    model = exported.model
    with _only_errors("onnxscript"):  # it would log each operation that it does not fold
        optimizer.fold_constants(model)
        optimizer.remove_unused_nodes(model)
    # Remove the metadata of nodes, which names source files with their folders on this machine.
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
    model.metadata_props[KEY] = json.dumps(about, ensure_ascii=False)
    exported.save(path, external_data=False)


def write_about(path: Path, about: Mapping[str, Any]) -> None:
    """Replace `about` in the metadata of an ONNX file."""
    onnx = import_extra("onnx", "onnx", NEEDS)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {KEY: json.dumps(about, ensure_ascii=False)})
    onnx.save(model, path)


@contextmanager
def _only_errors(name: str) -> Iterator[None]:
    """Inside, a logger logs only errors."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def about_file(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Return `about` from a file's metadata.

    Raises `UserError` if this package did not write the file.
    """
    try:
        return dict(json.loads(metadata[KEY]))
    except (KeyError, ValueError, TypeError):
        raise UserError(
            f"{path}: was not written by `frozenseg export`; its metadata lacks {KEY!r}"
        ) from None
