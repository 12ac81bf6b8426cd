"""Where the proposals of images come from: SAM runs now, or a folder has them.

`proposals` makes them, `proposal_files` keeps them on disk, and `join_proposals` joins them with
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
    """Gives the proposals of images."""

    def __call__(
        self, images: ImageBatch, image_ids: Sequence[int | str | None]
    ) -> tuple[list[Proposals], Tensor | None]:
        """Return the proposals of each image of a batch, and SAM's embedding of the batch or None.

        The embedding (`FrozenSam.image_embedding`) spares the injectors a second pass of SAM.
        """


@dataclass(frozen=True)
class OnlineProposals:
    """SAM makes the proposals when they are needed.

    decoder: of `sam`.
    shared: whether this SAM also feeds the model's injectors, in a view that proposals can use, so
    that one pass of its image encoder serves both.
    """

    sam: FrozenSam
    decoder: PointDecoder
    settings: ProposalSettings
    shared: bool

    @torch.no_grad()
    def __call__(
        self, images: ImageBatch, image_ids: Sequence[int | str | None]
    ) -> tuple[list[Proposals], Tensor | None]:
        """As `ProposalSource`; image_ids are not used."""
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
    """Proposals that `frozenseg make_sam_masks` has written to disk."""

    folder: ProposalFolder

    def __call__(
        self, images: ImageBatch, image_ids: Sequence[int | str | None]
    ) -> tuple[list[Proposals], Tensor | None]:
        """As `ProposalSource`; the images must be those that the files were made from."""
        found = []
        for image_id, pixels, (height, width) in zip(
            image_ids, images.pixels, images.sizes, strict=True
        ):
            assert image_id is not None, "images with proposals on disk have ids"
            found.append(self.folder.load(image_id, pixels[:, :height, :width]))
        return found, None
