"""Sources of proposals: SAM computes them when they are needed, or they are read from a folder.

`proposals` computes them, `proposal_files` stores them on disk, and `join_proposals` adds them to
the queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from frozenseg.encoders.sam import FrozenSam
from frozenseg.encoders.sam_decoder import PointDecoder
from frozenseg.inference.proposal_files import ProposalFolder
from frozenseg.inference.proposals import Proposals, ProposalSettings, propose
from frozenseg.runtime.precision import in_float32
from frozenseg.structures import ImageBatch


class ProposalSource(Protocol):
    """Returns the proposals of images."""

    def __call__(
        self, images: ImageBatch, image_ids: Sequence[int | str | None]
    ) -> tuple[list[Proposals], Tensor | None]:
        """Return the proposals of each image of a batch, and SAM's embedding of the batch or None.

        With the embedding (`FrozenSam.image_embedding`), the injectors need no second pass of SAM.
        """


@dataclass(frozen=True)
class OnlineProposals:
    """SAM computes the proposals when they are needed.

    decoder: the point decoder of `sam`.
    shared: whether this SAM also provides the features for the model's injectors, in a view that
        proposals can use, so that one pass of its image encoder serves both.
    """

    sam: FrozenSam
    decoder: PointDecoder
    settings: ProposalSettings
    shared: bool

    @torch.no_grad()
    def __call__(
        self, images: ImageBatch, image_ids: Sequence[int | str | None]
    ) -> tuple[list[Proposals], Tensor | None]:
        """See `ProposalSource`; image_ids are not used."""
        embedding = self.sam.image_embedding(images)
        # bfloat16 is too coarse for the thresholds of quality.
        with in_float32(embedding):
            proposals = [
                propose(self.decoder, embedding[index : index + 1], size, self.settings)
                for index, size in enumerate(images.sizes)
            ]
        return proposals, embedding if self.shared else None


@dataclass(frozen=True)
class StoredProposals:
    """Reads proposals that `frozenseg make_sam_masks` has written to disk."""

    folder: ProposalFolder

    def __call__(
        self, images: ImageBatch, image_ids: Sequence[int | str | None]
    ) -> tuple[list[Proposals], Tensor | None]:
        """See `ProposalSource`; the files must have been made from these images."""
        found = []
        for image_id, pixels, (height, width) in zip(
            image_ids, images.pixels, images.sizes, strict=True
        ):
            assert image_id is not None, "images with proposals on disk must have ids"
            found.append(self.folder.load(image_id, pixels[:, :height, :width]))
        return found, None
