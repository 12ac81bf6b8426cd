"""FrozenSeg (arXiv 2409.03525); without SAM and the injectors it is FC-CLIP (arXiv 2308.02487).

Legend: B images, Q queries, K classes, D joint CLIP space.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from frozenseg.encoders.clip import FrozenClip
from frozenseg.encoders.pooling import resample_to_padded_grid
from frozenseg.encoders.sam import FrozenSam
from frozenseg.models.base import RegionClassifier, Stage
from frozenseg.models.geometric_ensemble import TextAndVoid, class_logits, geometric_ensemble
from frozenseg.models.layers import Attention, WithEmbeddings, resize
from frozenseg.models.mask_adapter import FINER, MaskAdapter
from frozenseg.models.mask_decoder import MaskDecoder
from frozenseg.models.ms_deform_attn import DeformableAttention
from frozenseg.models.pixel_decoder import GroupNorm, PixelDecoder, SAMPixelDecoder
from frozenseg.models.simple_pyramid import SimpleFeaturePyramid
from frozenseg.structures import (
    ClipFeatures,
    FrozenFeatures,
    ImageBatch,
    MaskPredictions,
    TextEmbeddings,
)


class FrozenSeg(WithEmbeddings, RegionClassifier):
    """A frozen CLIP classifies and a frozen SAM localises; the decoders that read their features
    are trained."""

    embeddings = frozenset({"void_embedding"})

    def __init__(
        self,
        *,
        clip: FrozenClip,
        sam: FrozenSam | None,
        pixel_decoder: PixelDecoder,
        sam_pixel_decoder: SAMPixelDecoder | None,
        mask_decoder: MaskDecoder,
        ensemble_alpha: float,
        ensemble_beta: float,
        ensemble_on_valid_mask: bool,
        size_divisor: int,
        pyramid: SimpleFeaturePyramid | None = None,
        void_factor: float = 1.0,
        void_to_unseen: float = 0.0,
        mask_adapter: MaskAdapter | None = None,
    ) -> None:
        """Combine the parts of the model.

        clip: both the backbone and the out-of-vocabulary classifier.
        sam: provides the features for the injectors; None if there are no injectors.
        pixel_decoder: Mask2Former's pixel decoder, on CLIP's feature levels.
        sam_pixel_decoder: prepares SAM's embedding for the Feature Injector; None without that
            injector.
        mask_decoder: Mask2Former's transformer decoder, with the injectors.
        ensemble_alpha: weight of CLIP's own classifier for seen classes, 0-1.
        ensemble_beta: the same for unseen classes.
        ensemble_on_valid_mask: whether CLIP's classifier counts only for masks that are not empty.
        size_divisor: images are padded to a multiple of it, in pixels.
        pyramid: builds CLIP's levels from its only level at stride 16 (CLIP is a ViT); None if
            CLIP has all levels itself.
        void_factor, void_to_unseen: adjust the probability of void, see `geometric_ensemble`.
        mask_adapter: decides where in and around a region CLIP's features are pooled; None: they
            are pooled inside the region.
        """
        super().__init__()
        self.clip = clip
        self.sam = sam
        self.pixel_decoder = pixel_decoder
        # The attribute has this name because the entries of checkpoints have it.
        self.sam_branch = sam_pixel_decoder
        self.mask_decoder = mask_decoder
        self.void_embedding = nn.Parameter(torch.randn(1, clip.embed_dim))
        self.ensemble_alpha = ensemble_alpha
        self.ensemble_beta = ensemble_beta
        self.ensemble_on_valid_mask = ensemble_on_valid_mask
        self.size_divisor = size_divisor
        self.pyramid = pyramid
        self.void_factor = void_factor
        self.void_to_unseen = void_to_unseen
        self.mask_adapter = mask_adapter

    @property
    def text_encoder(self) -> FrozenClip:
        """CLIP's text tower."""
        return self.clip

    def stages(self) -> list[Stage]:
        """Return the encoders, the pixel decoders, the transformer decoder, and classification."""
        stages = [Stage("CLIP trunk", self.clip, frozen=True)]
        if self.sam is not None:
            encoder = self.sam.model.image_encoder
            stages.append(Stage("SAM encoder", encoder, fixed_size=True, frozen=True))
        if self.pyramid is not None:
            stages.append(Stage("feature pyramid", self.pyramid))
        stages.append(Stage("pixel decoder", self.pixel_decoder))
        if self.sam_branch is not None:
            stages.append(Stage("SAM pixel decoder", self.sam_branch))
        return [
            *stages,
            Stage("transformer decoder", self.mask_decoder),
            Stage("classification", self, "ensemble_logits"),
        ]

    def cast_for_inference(self, dtype: torch.dtype) -> None:
        """Cast both encoders, and the linear layers, convolutions and group norms of the decoders.

        The residual sums and norms of tokens stay in float32, and so do the layers that compute the
        locations and weights of the samples of deformable attention.
        """
        self.clip.cast_trunk(dtype)
        if self.sam is not None:
            self.sam.cast_encoder(dtype)
        decoders = nn.ModuleList([self.pixel_decoder, self.mask_decoder])
        if self.sam_branch is not None:
            decoders.append(self.sam_branch)
        sampling_layers = {
            layer
            for part in decoders.modules()
            if isinstance(part, DeformableAttention)
            for layer in (part.sampling_offsets, part.attention_weights)
        }
        for part in decoders.modules():
            if isinstance(part, nn.Linear | nn.Conv2d | GroupNorm) and part not in sampling_layers:
                part.to(dtype)
            elif isinstance(part, Attention):
                part.in_proj_weight.data = part.in_proj_weight.to(dtype)
                part.in_proj_bias.data = part.in_proj_bias.to(dtype)

    def forward(
        self,
        images: ImageBatch,
        text: TextEmbeddings,
        features: FrozenFeatures | None = None,
    ) -> MaskPredictions:
        """Return the mask logits and in-vocabulary class logits (scaled cosines) of every decoder
        layer, for training.

        features: the result of `encode` for these images, if it is known already.
        """
        features = features or self.encode(images)
        predictions = self.decode(features, text, auxiliary=True)
        if self.mask_adapter is not None:  # its loss needs CLIP's dense features
            predictions.clip_dense = features.clip.dense
        return predictions

    @torch.no_grad()
    def predict(
        self,
        images: ImageBatch,
        text: TextEmbeddings,
        *,
        regions: Sequence[Tensor] | None = None,
        image_embedding: Tensor | None = None,
    ) -> MaskPredictions:
        """Like `forward`, for the last layer only, and with the log-probabilities of the geometric
        ensemble as class logits.

        regions: mask logits (P, h, w) for each image, which span the image without its padding;
        they are classified as well, by CLIP's own classifier only.
        image_embedding: SAM's embedding of these images, as returned by
        `FrozenSam.image_embedding`, if it is known already.
        """
        features = self.encode(images, image_embedding)
        predictions = self.decode(features, text, auxiliary=False)
        clip = features.clip
        predictions.class_logits = self.ensemble_logits(clip, predictions, text)
        if regions is not None:
            padded = (images.pixels.shape[-2], images.pixels.shape[-1])
            resampled = [
                resample_to_padded_grid(masks, size, padded, self.region_grid(clip.dense))
                for masks, size in zip(regions, images.sizes, strict=True)
            ]
            filled = nn.utils.rnn.pad_sequence(resampled, batch_first=True)
            predictions.region_logits = self.region_logits(clip, filled, text)
        return predictions

    @torch.no_grad()
    def encode(self, images: ImageBatch, image_embedding: Tensor | None = None) -> FrozenFeatures:
        """Return CLIP's features and SAM's embedding; image_embedding as in `predict`."""
        clip = self.clip(images.normalized(self.clip.mean, self.clip.std))
        return FrozenFeatures(
            clip, self.sam(images, image_embedding) if self.sam is not None else None
        )

    def feature_channels(self) -> dict[str, int]:
        """Return the channels of CLIP's levels and of SAM's embedding."""
        return self.clip.channels | ({} if self.sam is None else {"sam": self.sam.channels})

    def decode(
        self, features: FrozenFeatures, text: TextEmbeddings, *, auxiliary: bool
    ) -> MaskPredictions:
        """Return masks and in-vocabulary class logits; with `auxiliary` also those of the earlier
        decoder layers."""
        clip_levels = features.clip.levels
        if self.pyramid is not None:
            clip_levels = self.pyramid(clip_levels)
        mask_features, levels = self.pixel_decoder(clip_levels)
        sam_level = self.sam_branch(features.sam) if self.sam_branch is not None else None

        return self.mask_decoder(
            levels,
            mask_features,
            TextAndVoid(text, self.void_embedding),
            sam_embedding=features.sam,
            sam_level=sam_level,
            auxiliary=auxiliary,
        )

    def ensemble_logits(
        self, features: ClipFeatures, predictions: MaskPredictions, text: TextEmbeddings
    ) -> Tensor:
        """Return the log-probabilities (B, Q, K + 1) of the geometric ensemble of both classifiers,
        the trained one and CLIP's own."""
        grid = self.region_grid(features.dense)
        masks = resize(self._as_regions(predictions.mask_logits), grid)
        return geometric_ensemble(
            predictions.class_logits,
            self.clip_logits(features, masks, text),
            text.seen,
            alpha=self.ensemble_alpha,
            beta=self.ensemble_beta,
            valid=(masks > 0).flatten(2).any(-1) if self.ensemble_on_valid_mask else None,
            void_factor=self.void_factor,
            void_to_unseen=self.void_to_unseen,
        )

    def clip_logits(self, features: ClipFeatures, masks: Tensor, text: TextEmbeddings) -> Tensor:
        """Return the logits (B, Q, K + 1) of CLIP's own classifier for masks.

        masks: (B, Q, h, w), logits on CLIP's grid; with a mask adapter as in `region_embeddings`.
        """
        if self.mask_adapter is None:
            regions = self.clip.encode_regions(features.dense, masks)
        else:
            regions = self.region_embeddings(features.dense, masks)
        return self.class_logits_of_regions(regions, text)

    def class_logits_of_regions(self, regions: Tensor, text: TextEmbeddings) -> Tensor:
        """Return logits (B, Q, K + 1) of CLIP's own classifier for region embeddings (B, Q, D)."""
        return class_logits(regions, text, self.void_embedding, self.clip.logit_scale)

    def region_logits(self, features: ClipFeatures, masks: Tensor, text: TextEmbeddings) -> Tensor:
        """Like `clip_logits`, for mask logits (B, P, h, w) on the grid of `region_grid`."""
        return self.clip_logits(features, self._as_regions(masks), text)

    def _as_regions(self, mask_logits: Tensor) -> Tensor:
        """Return masks as `clip_logits` expects them: 1 inside and 0 outside for a mask adapter."""
        return mask_logits if self.mask_adapter is None else (mask_logits > 0).float()

    def region_embeddings(self, dense: Tensor, masks: Tensor) -> Tensor:
        """Return CLIP's embeddings (B, Q, D) of regions, pooled where the mask adapter decides; in
        training with gradients.

        dense: (B, C, h, w), see `ClipFeatures`. masks: (B, Q, 4h, 4w) in 0-1, see `MaskAdapter`.
        """
        assert self.mask_adapter is not None, "the model has no mask adapter"
        maps = self.mask_adapter(self.clip.encode_cells(dense), masks)
        return self.clip.encode_activations(dense, maps)

    def region_grid(self, dense: Tensor) -> tuple[int, int]:
        """Return the height and width of the grid on which masks of regions are expected: CLIP's
        grid, or a finer one for the mask adapter."""
        finer = 1 if self.mask_adapter is None else FINER
        return finer * dense.shape[-2], finer * dense.shape[-1]
