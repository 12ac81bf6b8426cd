"""Run exported files with ONNX Runtime, in place of a model and of its text encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from frozenseg.encoders.clip_text import build_tokenizer, whole_tokens
from frozenseg.encoders.sam import FrozenSam
from frozenseg.errors import MissingFileError, UserError, import_extra, nearest
from frozenseg.export.graph import Case, about_file
from frozenseg.export.openvino import DEVICES, OpenVinoSession
from frozenseg.export.results import OUTPUTS
from frozenseg.models.base import RegionClassifier
from frozenseg.structures import ImageBatch, MaskPredictions, TextEmbeddings

PROVIDER = "ExecutionProvider"
TEXTS_AT_ONCE = 128


class Session:
    """An ONNX file in ONNX Runtime.

    about: what `frozenseg export` wrote into its metadata. inputs: the shapes of the inputs, by
    name; a length that is free is not a number.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        """device: "cpu", "cuda" or the name of another execution provider, e.g. "CoreML"."""
        runtime = import_extra("onnxruntime", "onnx", str(path))
        if not path.is_file():
            raise MissingFileError(f"{path}: no such file; make one with `frozenseg export`")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # log only errors, and no remarks on the optimisation
        # Otherwise ONNX Runtime also rounds the inputs of layers with int8 weights, and is slower.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        provider = _provider(device, runtime.get_available_providers())
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # the errors of ONNX Runtime have no common class
            line = str(error).strip().partition("\n")[0]
            raise UserError(f"{path}: ONNX Runtime cannot load it ({line})") from None
        self.about = about_file(self._session.get_modelmeta().custom_metadata_map, path)
        self._run = runtime.RunOptions()
        self._run.only_execute_path_to_fetches = True
        self.inputs = {entry.name: entry.shape for entry in self._session.get_inputs()}
        self.outputs = [entry.name for entry in self._session.get_outputs()]

    def __call__(
        self, inputs: dict[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Compute the named outputs, or all of them; outputs that are not named cost no time."""
        names = list(outputs or self.outputs)
        given = {name: value for name, value in inputs.items() if name in self.inputs}
        return dict(zip(names, self._session.run(names, given, self._run), strict=True))


AnySession = Session | OpenVinoSession


def open_session(
    path: Path, device: str | None, outputs: Sequence[str] | None = None
) -> AnySession:
    """Open a graph on the device where it should run.

    device: see `Session` and `OpenVinoSession`; None: the CPU, with ONNX Runtime.
    outputs: the outputs that will be requested; None: all.
    """
    if device in DEVICES:
        return OpenVinoSession(path, device, outputs)
    return Session(path, device or "cpu")


class OnnxModel(RegionClassifier):
    """The network of an exported file, with the interface of the model from which it was made."""

    def __init__(self, session: AnySession, sam: FrozenSam | None = None) -> None:
        """sam: computes the embedding that the graph takes; None if it takes none."""
        super().__init__()
        self.sam = sam
        self.session = session
        self.window = (session.about["window"][0], session.about["window"][1])
        self.size_divisor = session.about["size_divisor"]

    @property
    def device(self) -> torch.device:
        """The CPU, where inputs and outputs are, even if the session computes elsewhere."""
        return torch.device("cpu")

    def predict(
        self,
        images: ImageBatch,
        text: TextEmbeddings,
        *,
        regions: Sequence[Tensor] | None = None,
        image_embedding: Tensor | None = None,
    ) -> MaskPredictions:
        """Predict image by image, see `RegionClassifier.predict`.

        Raises `UserError` if an image is larger than the window, or if the graph is fixed to other
        numbers of classes and names.
        """
        padded = (images.pixels.shape[-2], images.pixels.shape[-1])
        if padded[0] > self.window[0] or padded[1] > self.window[1]:
            raise UserError(f"an image of {padded} pixels is larger than the window {self.window}")
        self._check_counts(text)
        if "regions" in self.session.inputs and regions is None:
            regions = [images.pixels.new_zeros(0, 1, 1)] * len(images.sizes)
        if self.sam is not None:
            image_embedding = self.sam.embed(images, image_embedding)
        names = [*OUTPUTS["logits"], *([] if regions is None else OUTPUTS["regions"])]
        found = []
        window = images.pixels.new_zeros(len(images.sizes), 3, *self.window)
        window[..., : padded[0], : padded[1]] = images.pixels
        for number, size in enumerate(images.sizes):
            case = Case(
                name="",
                pixels=window[number, None],
                size=size,
                text=text,
                is_thing=torch.zeros_like(text.seen),
                embedding=None if image_embedding is None else image_embedding[number, None],
                regions=None if regions is None else _not_empty(regions[number]),
            )
            inputs = {name: tensor.numpy() for name, tensor in case.inputs().items()}
            outputs = self.session(inputs, names)
            found.append([torch.from_numpy(outputs[name])[0] for name in names])
        class_logits, mask_logits, *more = (list(parts) for parts in zip(*found, strict=True))
        masks = torch.stack(mask_logits)
        cells = [
            length * masks.shape[axis] // self.window[axis]
            for axis, length in zip((-2, -1), padded, strict=True)
        ]
        return MaskPredictions(
            torch.stack(class_logits),
            masks[..., : cells[0], : cells[1]],
            region_logits=nn.utils.rnn.pad_sequence(more[0], batch_first=True) if more else None,
        )

    def _check_counts(self, text: TextEmbeddings) -> None:
        """Raise `UserError` if the graph is fixed to other numbers of classes and names."""
        made = tuple(self.session.about.get(name) for name in ("classes", "names"))
        given = len(text.seen), len(text.weight)
        if None not in made and made != given:
            raise UserError(
                f"{given[0]} classes with {given[1]} names: this graph takes {made[0]} with "
                f"{made[1]}, like those for which it was exported; export it with these names"
            )


def _not_empty(regions: Tensor) -> Tensor:
    """Return regions (P, h, w), or a dummy region if P is 0, which graphs do not accept."""
    return regions if len(regions) else regions.new_zeros(1, 1, 1)


class OnnxText:
    """The exported text encoder of a model; a `frozenseg.text.classifier.TextEncoder`."""

    def __init__(self, session: AnySession) -> None:
        self.session = session
        self._length: int = session.about["context_length"]
        self._tokenizer: Any = build_tokenizer(session.about["clip"], self._length)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Encode texts, see `TextEncoder`."""
        tokens = whole_tokens(self._tokenizer, texts, self._length)
        parts = [self.session({"tokens": part.numpy()}) for part in tokens.split(TEXTS_AT_ONCE)]
        return torch.from_numpy(np.concatenate([part["vectors"] for part in parts]))

    def text_fingerprint(self) -> str:
        """Return the fingerprint of the text encoder, see `TextEncoder`."""
        return self.session.about["text_fingerprint"]


class NoText:
    """Used in place of the text encoder if an exported model has none beside it."""

    def __init__(self, path: Path) -> None:
        """path: where the file of the text encoder would be."""
        self.path = path

    def encode_text(self, texts: list[str]) -> Tensor:
        """Raise `MissingFileError`: only the names whose vectors are in a file can be used."""
        raise MissingFileError(
            f"{self.path}: no such file; it is needed to encode names that were not exported: copy "
            "it beside the model, or use only names of the exported vocabulary"
        )

    def text_fingerprint(self) -> str:
        """Return an empty fingerprint."""
        return ""


def _provider(device: str, available: list[str]) -> str:
    """Return the name of the ONNX Runtime execution provider for a device."""
    short = {name.removesuffix(PROVIDER).lower(): name for name in available}
    name = device.removesuffix(PROVIDER).lower()
    if name not in short:
        raise UserError(
            f"device {device}: this ONNX Runtime does not have it; {nearest(name, list(short))}"
        )
    return short[name]
