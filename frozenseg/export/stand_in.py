"""Graphs that replace a model's computations, each made when its image size first occurs."""

import copy
import threading
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from frozenseg.export.agreement import random_words
from frozenseg.export.network import Network
from frozenseg.export.results import Results
from frozenseg.export.session import OnnxModel
from frozenseg.export.store import GraphStore
from frozenseg.export.write import write_graph
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.models.base import SegmentationModel
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.structures import ImageBatch, MaskPredictions, TextEmbeddings

MOST_OPEN = 4
"""Largest number of sizes whose graphs are in memory at the same time."""
CLASSES, NAMES = 40, 50
"""Numbers of classes and names with which a graph that takes any number of them is checked."""


def stand_in(model: SegmentationModel, store: GraphStore) -> None:
    """Let graphs compute the `predict` of a model from now on.

    model: on the CPU, with weights that are not prepacked, and used only for prediction.
    """
    # The copy keeps the original `predict`.
    model.predict = GraphPredict(copy.copy(model), store)  # type: ignore[method-assign]


class GraphPredict:
    """Replaces a model's `predict`, with one graph for each padded image size.

    SAM's embedding is an input of the graphs, so that one SAM encoder serves all sizes.
    """

    def __init__(self, model: SegmentationModel, store: GraphStore) -> None:
        """model: see `stand_in`."""
        self.network, self.store = Network(model), store
        # Ordered by last use, the most recent one last.
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
        """Predict, see `RegionClassifier.predict`."""
        graph = self._graph(images, text)
        return graph.predict(images, text, regions=regions, image_embedding=image_embedding)

    def _graph(self, images: ImageBatch, text: TextEmbeddings) -> OnnxModel:
        key: tuple[int, ...] = (images.pixels.shape[-2], images.pixels.shape[-1])
        if not self.network.free_classes:
            key = (*key, len(text.seen), len(text.weight))
        with self._lock:
            graph = self._graphs.pop(key, None) or self._made(key, text.weight.shape[1])
            self._graphs = dict([*self._graphs.items(), (key, graph)][-MOST_OPEN:])
        return graph

    def _made(self, key: tuple[int, ...], dim: int) -> OnnxModel:
        height, width, *counts = key
        model = self.network.model
        parts = isinstance(model, FrozenSeg)
        about = {
            "format": "onnx",
            "precision": "fp32",
            "window": [height, width],
            "size_divisor": model.size_divisor,
        }

        def make(path: Path) -> None:
            results = Results(self.network, PostProcessor(), ())
            classes, names = counts or (CLASSES, NAMES)
            words = random_words(classes, names, dim)
            write_graph(results, words, path, about, parts=parts)

        fixed = f", {counts[0]} classes with {counts[1]} names" if counts else ""
        graph = self.store.open(f"{height} x {width} pixels{fixed}", make)
        return OnnxModel(graph, model.sam if isinstance(model, FrozenSeg) else None)
