"""Exported ONNX files in OpenVINO, which computes them on a CPU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from frozenseg.errors import MissingFileError, UserError, import_package
from frozenseg.export.graph import KEY, about_file

DEVICES = {"openvino": "f32", "openvino-bf16": "bf16"}
"""By the name of the device: the type in which the graph computes."""
LOGITS = ("class_logits", "mask_logits")


class OpenVinoSession:
    """An ONNX file in OpenVINO, which computes the logits alone. about: as of `Session`."""

    def __init__(self, path: Path, device: str) -> None:
        """device: a key of `DEVICES`."""
        openvino = import_package("openvino", f"device {device}")
        if not path.is_file():
            raise MissingFileError(f"{path}: no such file; make one with `frozenseg export`")
        settings = {
            "INFERENCE_PRECISION_HINT": DEVICES[device],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            graph = openvino.Core().read_model(str(path))
            key = ["framework", KEY]
            about = {KEY: graph.get_rt_info(key).value} if graph.has_rt_info(key) else {}
            self.about = about_file(about, path)
            outputs = [graph.output(name).node.input_value(0) for name in LOGITS]
            model = openvino.Model(outputs, graph.get_parameters())
            self._compiled = openvino.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            line = str(error).strip().partition("\n")[0]
            raise UserError(f"{path}: OpenVINO cannot load it ({line})") from None

    def __call__(
        self, inputs: dict[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Compute both logits; threads may call at once."""
        # An input may have other names as well, of conversions in the file.
        given = {
            place: inputs[(entry.names & inputs.keys()).pop()]
            for place, entry in enumerate(self._compiled.inputs)
        }
        found = self._compiled.create_infer_request().infer(given)
        return {name: found[number].copy() for number, name in enumerate(LOGITS)}
