"""FrozenSeg (arXiv 2409.03525): parts in, predictions out. Without SAM it is FC-CLIP (2308.02487).

Legend: B images, Q queries, K classes, D joint CLIP space.
"""

import torch
from torch import Tensor, nn

from frozenseg.encoders.clip import FrozenClip
from frozenseg.encoders.pooling import place_on_grid
from frozenseg.encoders.sam import FrozenSam
from frozenseg.models.base import RegionClassifier, Stage
from frozenseg.models.layers import resize
from frozenseg.models.mask_decoder import MaskDecoder
from frozenseg.models.open_vocab import class_logits, geometric_ensemble
from frozenseg.models.pixel_decoder import PixelDecoder, SAMPixelDecoder
from frozenseg.structures import (
    ClipFeatures,
    FrozenFeatures,
    ImageBatch,
    MaskPredictions,
    TextEmbeddings,
)


class FrozenSeg(RegionClassifier):
    """A frozen CLIP recognises, a frozen SAM localises, the decoders between them train."""

    features = FrozenFeatures
    embeddings = frozenset({"void_embedding"})
    """Parameters that are learned tables."""

    def __init__(
        self,
        *,
        clip: FrozenClip,
        sam: FrozenSam | None,
        pixel_decoder: PixelDecoder,
        sam_branch: SAMPixelDecoder | None,
        mask_decoder: MaskDecoder,
        ensemble_alpha: float,
        ensemble_beta: float,
        ensemble_on_valid_mask: bool,
        size_divisor: int,
    ) -> None:
        """sam: needed by either injector; sam_branch: by the Feature Injector. ensemble_alpha and
        ensemble_beta: weight of CLIP's own classifier for seen and unseen classes.
        ensemble_on_valid_mask: only where a mask has pixels. size_divisor: of padded images."""
        super().__init__()
        self.clip = clip
        self.sam = sam
        self.pixel_decoder = pixel_decoder
        self.sam_branch = sam_branch
        self.mask_decoder = mask_decoder
        self.void_embedding = nn.Parameter(torch.randn(1, clip.embed_dim))
        self.ensemble_alpha = ensemble_alpha
        self.ensemble_beta = ensemble_beta
        self.ensemble_on_valid_mask = ensemble_on_valid_mask
        self.size_divisor = size_divisor

    @property
    def text_encoder(self) -> FrozenClip:
        return self.clip

    def stages(self) -> list[Stage]:
        stages = [Stage("CLIP trunk", self.clip, frozen=True)]
        if self.sam is not None:
            encoder = self.sam.model.image_encoder
            stages.append(Stage("SAM encoder", encoder, fixed_size=True, frozen=True))
        stages.append(Stage("pixel decoder", self.pixel_decoder))
        if self.sam_branch is not None:
            stages.append(Stage("SAM branch", self.sam_branch))
        return [
            *stages,
            Stage("transformer decoder", self.mask_decoder),
            Stage("classification", self, "ensemble_logits"),
        ]

    def forward(
        self,
        images: ImageBatch,
        text: TextEmbeddings,
        auxiliary: bool = False,
        features: FrozenFeatures | None = None,
    ) -> MaskPredictions:
        """In-vocabulary class logits (cosine times scale) and mask logits; for training.

        features: `encode` of these images, if it is known already.
        """
        return self._decode(features or self.encode(images), text, auxiliary)

    @torch.no_grad()
    def predict(
        self,
        images: ImageBatch,
        text: TextEmbeddings,
        *,
        regions: Tensor | None = None,
        image_embedding: Tensor | None = None,
    ) -> MaskPredictions:
        """As `forward`, with class log-probabilities of both classifiers in place of logits.

        regions: mask logits (B, P, h, w) that span each image without its padding, to be classified
        by CLIP alone. image_embedding: SAM's embedding of these images,
        `FrozenSam.image_embedding`, if it is known already.
        """
        features = self.encode(images, image_embedding)
        predictions = self._decode(features, text, False)
        clip = features.clip
        predictions.class_logits = self.ensemble_logits(clip, predictions, text)
        if regions is not None:
            dense, padded = clip.dense, (images.pixels.shape[-2], images.pixels.shape[-1])
            grid = (dense.shape[-2], dense.shape[-1])
            placed = [
                place_on_grid(masks, size, padded, grid)
                for masks, size in zip(regions, images.sizes, strict=True)
            ]
            predictions.region_logits = self._clip_logits(clip, torch.stack(placed), text)
        return predictions

    @torch.no_grad()
    def encode(self, images: ImageBatch, image_embedding: Tensor | None = None) -> FrozenFeatures:
        """image_embedding: as in `predict`."""
        clip = self.clip(images.normalized(self.clip.mean, self.clip.std))
        return FrozenFeatures(
            clip, self.sam(images, image_embedding) if self.sam is not None else None
        )

    def _decode(
        self, features: FrozenFeatures, text: TextEmbeddings, auxiliary: bool
    ) -> MaskPredictions:
        mask_features, levels = self.pixel_decoder(features.clip.levels)
        sam_level = self.sam_branch(features.sam) if self.sam_branch is not None else None

        def classify(embeddings: Tensor, logit_scale: Tensor) -> Tensor:
            return class_logits(embeddings, text, self.void_embedding, logit_scale)

        return self.mask_decoder(
            levels,
            mask_features,
            classify,
            sam_embedding=features.sam,
            sam_level=sam_level,
            auxiliary=auxiliary,
        )

    def ensemble_logits(
        self, features: ClipFeatures, predictions: MaskPredictions, text: TextEmbeddings
    ) -> Tensor:
        """Log-probabilities (B, Q, K + 1) of the geometric ensemble."""
        size = (features.dense.shape[-2], features.dense.shape[-1])
        masks = resize(predictions.mask_logits, size)
        return geometric_ensemble(
            predictions.class_logits,
            self._clip_logits(features, masks, text),
            text.seen,
            alpha=self.ensemble_alpha,
            beta=self.ensemble_beta,
            valid=(masks > 0).flatten(2).any(-1) if self.ensemble_on_valid_mask else None,
        )

    def _clip_logits(self, features: ClipFeatures, masks: Tensor, text: TextEmbeddings) -> Tensor:
        """(B, Q, K + 1) of CLIP's own classifier under masks (B, Q, h, w) on its grid."""
        regions = self.clip.encode_regions(features.dense, masks)
        return class_logits(regions, text, self.void_embedding, self.clip.logit_scale)
