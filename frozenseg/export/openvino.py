"""Run exported graphs with OpenVINO on a CPU, from ONNX files or OpenVINO's own files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch

from frozenseg.errors import MissingFileError, UserError, import_extra
from frozenseg.export.graph import KEY, about_file

DEVICES = {"openvino": "f32", "openvino-bf16": "bf16"}
"""Name of the device -> the data type in which the graph computes."""
SUFFIX, WEIGHTS = ".xml", ".bin"
"""The suffixes of OpenVINO's own two files."""
PLACE = ["framework", KEY]
"""The path of `about` in a graph's metadata; OpenVINO puts that of an ONNX file there, too."""


class OpenVinoSession:
    """A graph in OpenVINO. about, inputs: as in `Session`."""

    def __init__(
        self, path: Path, device: str = "openvino", outputs: Sequence[str] | None = None
    ) -> None:
        """Load a graph.

        device: a key of `DEVICES`.
        outputs: the outputs that will be requested, as far as the graph has them; None: all.
        """
        openvino = import_extra("openvino", "openvino", f"device {device}")
        if not path.is_file():
            raise MissingFileError(f"{path}: no such file; make one with `frozenseg export`")
        settings = {
            "INFERENCE_PRECISION_HINT": DEVICES[device],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            graph = openvino.Core().read_model(str(path))
            about = {KEY: graph.get_rt_info(PLACE).value} if graph.has_rt_info(PLACE) else {}
            self.about = about_file(about, path)
            self.outputs = [entry.any_name for entry in graph.outputs]
            if outputs is not None:
                found = {name: entry for entry in graph.outputs for name in entry.names}
                self.outputs = [name for name in outputs if name in found]
                ends = [found[name].node.input_value(0) for name in self.outputs]
                graph = openvino.Model(ends, graph.get_parameters())
            self.inputs = {
                name: [
                    axis.get_length() if axis.is_static else None for axis in entry.partial_shape
                ]
                for entry in graph.inputs
                for name in entry.names
            }
            self._compiled = openvino.compile_model(graph, "CPU", settings)
        except RuntimeError as error:
            line = str(error).strip().partition("\n")[0]
            raise UserError(f"{path}: OpenVINO cannot load it ({line})") from None

    def __call__(
        self, inputs: dict[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Compute all outputs and return the named ones; several threads may call at once."""
        # An input may have further names, which come from conversions in the file.
        given = {
            place: inputs[(entry.names & inputs.keys()).pop()]
            for place, entry in enumerate(self._compiled.inputs)
        }
        # By default, OpenVINO returns the outputs as copies.
        found = self._compiled.create_infer_request().infer(given, share_inputs=True)
        return {
            name: found[number]
            for number, name in enumerate(self.outputs)
            if name in (outputs or self.outputs)
        }


def write_openvino(source: Path, path: Path, about: Mapping[str, Any]) -> None:
    """Convert an ONNX file to OpenVINO's format: `path`, which ends in .xml, and its .bin file."""
    openvino = import_extra("openvino", "openvino", str(path))
    graph = openvino.Core().read_model(str(source))
    graph.set_rt_info(json.dumps(about, ensure_ascii=False), PLACE)
    openvino.serialize(graph, str(path), str(path.with_suffix(WEIGHTS)))


def write_about(path: Path, about: Mapping[str, Any]) -> None:
    """Replace `about` in a file of `write_openvino`; its weights stay as they are."""
    tree = ElementTree.parse(path)
    entry = tree.find(f"./rt_info/{PLACE[0]}/{PLACE[1]}")
    assert entry is not None, "`write_openvino` writes this entry"
    entry.set("value", json.dumps(about, ensure_ascii=False))
    tree.write(path, encoding="utf-8", xml_declaration=True)
