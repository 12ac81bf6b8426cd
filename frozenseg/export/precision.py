"""Convert float32 ONNX files to lower precision."""

from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.errors import import_extra

PRECISIONS = ("fp32", "fp16", "int8")
# Half precision is too coarse for these: rankings, sums over many pixels, logarithms, positions.
IN_FLOAT32 = (
    *("Log", "LogSoftmax", "Softmax", "TopK", "ArgMax", "GridSample", "CumSum", "Resize"),
    *("ReduceSum", "ScatterElements", "Range", "Equal", "Where", "Einsum", "Floor"),
)
LEAST_ELEMENTS = 1024  # smaller weights are not quantised


def lower_precision(path: Path, precision: str) -> None:
    """Convert an ONNX file in place.

    "fp16": weights and most operations are in half precision; inputs and outputs stay in float32.
    "int8": weights of matrix products and convolutions, and tables of vectors, are stored as
    integers with a scale for each output channel or vector; all computation is in float32.
    """
    onnx = import_extra("onnx", "onnx", str(path))
    before = onnx.load(path)
    if precision == "fp16":
        float16 = import_extra("onnxruntime.transformers.float16", "onnx", str(path))
        after = float16.convert_float_to_float16(
            before, keep_io_types=True, op_block_list=list(IN_FLOAT32)
        )
        if not after.metadata_props:
            after.metadata_props.extend(before.metadata_props)
    else:
        after = before
        _round_weights(onnx, after.graph)
    onnx.save(after, path)


def _round_weights(onnx: Any, graph: Any) -> None:
    """Store the weights of products as int8, and dequantise them at the start of the graph."""
    axes = _channel_axes(graph)
    added = []
    for weight in graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        name, axis = weight.name, axes.get(weight.name)
        if axis is None or values.dtype != np.float32 or values.size < LEAST_ELEMENTS:
            continue
        axis %= values.ndim
        others = tuple(other for other in range(values.ndim) if other != axis)
        scale = np.maximum(np.abs(values).max(others, keepdims=True) / 127, np.float32(1e-12))
        rounded = np.rint(values / scale).astype(np.int8)
        weight.CopyFrom(onnx.numpy_helper.from_array(rounded, f"{name}.int8"))
        added.append((onnx.numpy_helper.from_array(scale.flatten(), f"{name}.scale"), name, axis))
    nodes = [
        onnx.helper.make_node("DequantizeLinear", [f"{name}.int8", scale.name], [name], axis=axis)
        for scale, name, axis in added
    ]
    graph.initializer.extend(scale for scale, _, _ in added)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _channel_axes(graph: Any) -> dict[str, int | None]:
    """Return {name: axis of the output channels} for the inputs of all nodes.

    The axis is None unless every use of the input is as a weight, with the same axis.
    """
    axes: dict[str, int | None] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            axis = _channel_axis(node, place)
            axes[name] = axis if axes.get(name, axis) == axis else None
    return axes


def _channel_axis(node: Any, place: int) -> int | None:
    """Return the axis of the output channels in an input of a node; None if it is not a weight."""
    if place == 1 and node.op_type == "Gemm":
        return 0 if any(entry.name == "transB" and entry.i for entry in node.attribute) else 1
    if place == 1:
        return {"MatMul": -1, "Conv": 0}.get(node.op_type)
    # A table of vectors (Gather), or the weights of an attention's three layers in one (Split).
    # A weight that is transposed first is not quantised, because OpenVINO cannot load it then.
    whole = node.op_type in ("Gather", "Split") and node.input[0].endswith("weight")
    return 0 if whole and place == 0 else None
