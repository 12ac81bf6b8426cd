"""int8 files: weights are rounded, and nothing else is."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from frozenseg.export.graph import KEY
from frozenseg.export.openvino import OpenVinoSession
from frozenseg.export.precision import lower_precision
from frozenseg.export.session import Session


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_products_with_int8_weights_are_in_float32(runtime: str, tmp_path: Path) -> None:
    if find_spec("onnx") is None or find_spec(runtime) is None:
        pytest.skip(f'needs onnx and {runtime}: pip install "frozenseg[onnx,openvino]"')
    import onnx
    from onnx import TensorProto, helper

    rng = np.random.default_rng(0)
    weight = rng.normal(size=(256, 128)).astype(np.float32)
    pixels = rng.normal(size=(64, 256)).astype(np.float32)
    shapes = {"pixels": [64, 256], "found": [64, 128]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in shapes]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["pixels", "weight"], ["found"])],
        "product",
        ends[:1],
        ends[1:],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {KEY: "{}"})
    path = tmp_path / "product.onnx"
    onnx.save(model, path)
    lower_precision(path, "int8")
    scale = np.abs(weight).max(0) / 127
    expected = pixels @ (np.rint(weight / scale) * scale)
    session = Session(path) if runtime == "onnxruntime" else OpenVinoSession(path)
    (found,) = session({"pixels": pixels}).values()
    np.testing.assert_allclose(found, expected, atol=1e-4)
