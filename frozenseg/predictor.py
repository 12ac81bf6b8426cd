"""An image and a vocabulary in, masks with names out: the package's main entrance.

`frozenseg.load` gives a `Predictor`; calling it gives a `Result`, which draws itself.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor

from frozenseg.build import (
    build_device,
    build_post_processor,
    build_precision,
    build_sam_masks,
    build_text_classifier,
    load_model,
    ready_to_predict,
)
from frozenseg.build_vocabulary import build_training_vocabulary
from frozenseg.config import load_config, packaged_config
from frozenseg.data.images import to_array
from frozenseg.data.transforms import resize_image, resize_shortest_edge
from frozenseg.errors import UserError
from frozenseg.inference.postprocess import PostProcessor, class_regions
from frozenseg.inference.sam_masks import ProposalSource, StoredProposals
from frozenseg.inference.segment import segment_batch, segment_image
from frozenseg.models.base import Segmenter
from frozenseg.precision import Precision
from frozenseg.structures import (
    InstanceResult,
    PanopticResult,
    SegmentationResult,
    TextEmbeddings,
)
from frozenseg.text.classifier import TextClassifier
from frozenseg.text.vocabulary import Source, Vocabulary
from frozenseg.visualize import draw_segments

logger = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "model_final.safetensors", "model_final.pth")


@dataclass
class Result:
    """What was found in one image. A task that the configuration switches off is None.

    image: (H, W, 3) uint8, as read. panoptic, semantic (H, W) class ids and instances as in
    `frozenseg.structures`; class ids index `vocabulary`. note: a warning that belongs on every
    picture, e.g. that weights are random; else None.
    """

    image: np.ndarray
    vocabulary: Vocabulary
    panoptic: PanopticResult | None
    semantic: np.ndarray | None
    instances: InstanceResult | None
    note: str | None = None

    def draw(self, *, legend: bool = True, opacity: float = 0.5) -> Image.Image:
        """`regions` over the image, with a legend."""
        found = self.regions
        return draw_segments(self.image, found.ids, found.segments, legend, opacity, self.note)

    @cached_property
    def regions(self) -> PanopticResult:
        """The panoptic result; where the model makes none (Fusioner), one region for each class of
        the semantic result."""
        if self.panoptic is not None:
            return self.panoptic
        if self.semantic is None:
            raise UserError(
                "nothing to draw: MODEL.MASK_FORMER.TEST.PANOPTIC_ON and SEMANTIC_ON are False"
            )
        return class_regions(self.semantic, self.vocabulary.labels)


class Predictor:
    """Segments images; the vocabulary may change from call to call."""

    def __init__(
        self,
        *,
        model: Segmenter,
        text_classifier: TextClassifier,
        training_vocabulary: Vocabulary,
        post_processor: PostProcessor,
        short_side: int,
        long_side: int,
        precision: Precision,
        note: str | None = None,
        sam_masks: ProposalSource | None = None,
    ) -> None:
        """short_side, long_side: images are resized to a shorter side of short_side pixels, the
        longer at most long_side. precision: of the model. note: a warning for every result.
        sam_masks: where SAM's proposals come from, if they shall join."""
        self.model = model.eval()
        self.text_classifier = text_classifier
        self.training_vocabulary = training_vocabulary
        self.post_processor = post_processor
        self.short_side, self.long_side = short_side, long_side
        self.precision = precision
        self.note = note
        self.sam_masks = sam_masks
        self._text: tuple[Vocabulary, TextEmbeddings] | None = None

    def __call__(
        self,
        image: Any,
        vocabulary: Source | Vocabulary,
        things: Source | None = None,
    ) -> Result:
        """image: path, PIL image, (H, W, 3) RGB uint8 array, or tensor (`frozenseg.data.images`).
        vocabulary and things: as `Vocabulary.parse` takes them."""
        words = Vocabulary.parse(vocabulary, things)
        pixels = self.read(image)
        return self._result(pixels, words, self.segment(pixels, words, self.embed(words)))

    def batch(self, images: Sequence[np.ndarray], vocabulary: Vocabulary) -> list[Result]:
        """Images (H, W, 3) uint8 RGB of one size, in one pass of the model; SAM's proposals, which
        are made image by image, need a pass for each."""
        text = self.embed(vocabulary)
        if self.sam_masks is not None:
            found = [self.segment(pixels, vocabulary, text) for pixels in images]
        else:
            found = segment_batch(
                self.model,
                [self.resize(pixels) for pixels in images],
                [(pixels.shape[0], pixels.shape[1]) for pixels in images],
                text=text,
                vocabulary=vocabulary,
                post_processor=self.post_processor,
                precision=self.precision,
            )
        return [
            self._result(pixels, vocabulary, result)
            for pixels, result in zip(images, found, strict=True)
        ]

    def _result(
        self, pixels: np.ndarray, vocabulary: Vocabulary, found: SegmentationResult
    ) -> Result:
        return Result(
            pixels, vocabulary, found.panoptic, found.semantic, found.instances, self.note
        )

    def read(self, image: Any) -> np.ndarray:
        """An image in any form that a call takes as (H, W, 3) uint8 RGB."""
        return to_array(image)

    def resize(self, pixels: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (3, h, w) uint8, as the network shall see it."""
        size = resize_shortest_edge(
            pixels.shape[0], pixels.shape[1], self.short_side, self.long_side
        )
        resized = np.array(resize_image(pixels, size))  # a copy that torch may hold
        return torch.from_numpy(resized).permute(2, 0, 1)

    def segment(
        self, pixels: np.ndarray, vocabulary: Vocabulary, text: TextEmbeddings
    ) -> SegmentationResult:
        """pixels: (H, W, 3) uint8 RGB of any size, and results at that size; text: from `embed`."""
        return segment_image(
            self.model,
            self.resize(pixels),
            (pixels.shape[0], pixels.shape[1]),
            text=text,
            vocabulary=vocabulary,
            post_processor=self.post_processor,
            precision=self.precision,
            sam_masks=self.sam_masks,
        )

    def embed(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """The vocabulary's text vectors on the model's device; the last call's are kept."""
        if self._text is None or self._text[0] != vocabulary:
            text = self.text_classifier.embed(vocabulary, self.training_vocabulary)
            self._text = (vocabulary, text.to(self.model.device))
        return self._text[1]


def load(
    model: str | Path | None = "small",
    *,
    weights: str | Path | None = None,
    options: Sequence[str] = (),
) -> Predictor:
    """A model ready to segment.

    model: one that ships with the package ("small", "small-fusioner"), a YAML file, or a folder
    with `config.yaml` and weights. weights: a checkpoint, in place of the one the configuration
    names. options: KEY, VALUE, ... over the configuration. Raises `UserError` for whatever of it
    cannot be used.
    """
    config, found = _find("small" if model is None else model)
    cfg = load_config(config, options, freeze=False)
    if weights is not None:
        cfg.MODEL.WEIGHTS = str(weights)
    elif not cfg.MODEL.WEIGHTS and found is not None:
        cfg.MODEL.WEIGHTS = str(found)
    cfg.freeze()
    return build_predictor(cfg)


def build_predictor(cfg: CfgNode) -> Predictor:
    """The predictor of a configuration, weights loaded."""
    device = build_device(cfg)
    if not cfg.MODEL.WEIGHTS and not cfg.MODEL.ALLOW_RANDOM_WEIGHTS:
        raise UserError(
            "MODEL.WEIGHTS is empty: give a checkpoint (--weights FILE), "
            "or set MODEL.ALLOW_RANDOM_WEIGHTS True to try the program without one"
        )
    network, random = load_model(cfg)
    note = None
    if random:
        note = f"random weights ({', '.join(random)}): the result means nothing"
        logger.warning(note)
    network.to(device)
    precision = build_precision(cfg, device)
    ready_to_predict(cfg, network)
    return Predictor(
        model=network,
        text_classifier=build_text_classifier(cfg, network),
        training_vocabulary=build_training_vocabulary(cfg),
        post_processor=build_post_processor(cfg),
        short_side=cfg.INPUT.MIN_SIZE_TEST,
        long_side=cfg.INPUT.MAX_SIZE_TEST,
        precision=precision,
        note=note,
        sam_masks=_online_only(build_sam_masks(cfg, network)),
    )


def _online_only(source: ProposalSource | None) -> ProposalSource | None:
    """Plain images have no ids by which proposals could be found on disk."""
    if isinstance(source, StoredProposals):
        raise UserError("TEST.SAM_MASKS.FOLDER: only data sets have masks on disk; leave it empty")
    return source


def _find(model: str | Path) -> tuple[Path, Path | None]:
    """The YAML file and, where they lie together, the weights of `model`."""
    path = packaged_config(str(model)) or Path(model)
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        path = path / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"model {model}: no such model in the package, YAML file, or folder with config.yaml"
        )
    if path.name == "config.yaml":
        for name in WEIGHT_FILES:
            if (folder / name).is_file():
                return path, folder / name
    return path, None
