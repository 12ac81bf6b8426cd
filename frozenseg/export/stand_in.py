"""Graphs that stand in the place of a model's computations, made for the sizes that they meet."""

import copy
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from frozenseg.errors import UserError
from frozenseg.export.agreement import LIMITS, random_words
from frozenseg.export.graph import write_onnx
from frozenseg.export.network import Network
from frozenseg.export.results import Results
from frozenseg.export.session import OnnxModel, open_session
from frozenseg.export.store import GraphStore
from frozenseg.export.write import write_graph
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.models.base import SegmentationModel
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.structures import ImageBatch, MaskPredictions, TextEmbeddings

MOST_OPEN = 4
"""Sizes whose graphs are in memory at a time."""
CLASSES, NAMES = 40, 50
"""Of the check of a graph that takes any number."""


def stand_in(model: SegmentationModel, store: GraphStore) -> None:
    """Let graphs compute what `predict` of a model does, and its SAM's image encoder.

    model: on the CPU, with weights that are not prepacked; it only predicts from now on.
    """
    predict = GraphPredict(copy.copy(model), store)  # the copy keeps its own `predict`
    if isinstance(model, FrozenSeg) and model.sam is not None:
        encoder, side = model.sam.model.image_encoder, model.sam.side
        example = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        encoder.forward = GraphModule(encoder, example, "SAM's image encoder", store)
    model.predict = predict  # type: ignore[method-assign]


class GraphPredict:
    """Stands in the place of a model's `predict`, with a graph for each padded size of images.

    SAM's embedding is an input of it, so that one encoder serves all sizes.
    """

    def __init__(self, model: SegmentationModel, store: GraphStore) -> None:
        """model: as of `stand_in`."""
        self.network, self.store = Network(model), store
        # The last used is last.
        self._graphs: dict[tuple[int, ...], OnnxModel] = {}
        self._lock = threading.Lock()

    def __call__(
        self,
        images: ImageBatch,
        text: TextEmbeddings,
        *,
        regions: Sequence[Tensor] | None = None,
        image_embedding: Tensor | None = None,
    ) -> MaskPredictions:
        """As of `RegionClassifier.predict`."""
        graph, model = self._graph(images, text), self.network.model
        if not isinstance(model, FrozenSeg):
            return graph.predict(images, text)
        none = [images.pixels.new_zeros(0, 1, 1)] * len(images.sizes)
        embedding = None if model.sam is None else model.sam.embed(images, image_embedding)
        return graph.predict(images, text, regions=regions or none, image_embedding=embedding)

    def _graph(self, images: ImageBatch, text: TextEmbeddings) -> OnnxModel:
        key = (images.pixels.shape[-2], images.pixels.shape[-1])
        if not self.network.free_classes:
            key += (len(text.seen), len(text.weight))
        with self._lock:
            graph = self._graphs.pop(key, None) or self._made(key, text.weight.shape[1])
            self._graphs = dict([*self._graphs.items(), (key, graph)][-MOST_OPEN:])
        return graph

    def _made(self, key: tuple[int, ...], dim: int) -> OnnxModel:
        height, width, *counts = key
        about = {
            "format": "onnx",
            "precision": "fp32",
            "window": [height, width],
            "size_divisor": self.network.model.size_divisor,
        }

        def make(path: Path) -> None:
            results = Results(self.network, PostProcessor(), ())
            parts = isinstance(self.network.model, FrozenSeg)
            words = random_words(*(counts or (CLASSES, NAMES)), dim)
            with torch.inference_mode(False):
                write_graph(results, words, path, about, parts=parts)

        classes = "".join(f", {count} {what}" for count, what in zip(counts, ("classes", "names")))
        return OnnxModel(self.store.open(f"{height} x {width} pixels{classes}", make))


class GraphModule:
    """Stands in the place of a module's `forward`, whose inputs have one size."""

    def __init__(self, module: nn.Module, example: Tensor, name: str, store: GraphStore) -> None:
        """example: (1, ...), an input. name: for messages."""

        def make(path: Path) -> None:
            program = torch.export.export(_OneToOne(module), (example,), strict=False)
            write_onnx(program, path, ["outputs"], {})
            with torch.no_grad():
                truth = module(example)
            found = open_session(path, store.device)({"inputs": example.numpy()})["outputs"]
            difference = float((torch.from_numpy(found) - truth).abs().max() / truth.abs().max())
            if not difference <= LIMITS["fp32"].masks:
                path.unlink()
                raise UserError(f"{name}: its graph differs from it by {difference:.1e}")

        self._session = store.open(name, make)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Compute the outputs (B, ...) of inputs (B, ...)."""
        found = [self._session({"inputs": part.numpy()})["outputs"] for part in inputs.split(1)]
        return torch.from_numpy(np.concatenate(found))


class _OneToOne(nn.Module):
    """A module whose input has a name."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Tensor:
        return self.module(inputs)
