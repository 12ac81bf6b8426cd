"""Where the proposals of an image come from: SAM now, or a folder."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from frozenseg.encoders.sam import FrozenSam
from frozenseg.inference.proposal_files import ProposalFolder
from frozenseg.inference.proposals import Proposals, ProposalSettings, propose
from frozenseg.runtime.precision import in_float32
from frozenseg.structures import ImageBatch


class ProposalSource(Protocol):
    def __call__(
        self, images: ImageBatch, image_id: int | str | None
    ) -> tuple[Proposals, Tensor | None]:
        """Proposals of a batch of one, and the embedding of SAM that may serve the injectors too
        (`FrozenSam.image_embedding`), or None."""


@dataclass(frozen=True)
class OnlineProposals:
    """SAM asks the image itself. shared: whether this is the SAM of the model's injectors, in a
    view that proposals can use, so that one pass of the image encoder serves both."""

    sam: FrozenSam
    settings: ProposalSettings
    shared: bool

    @torch.no_grad()
    def __call__(
        self, images: ImageBatch, image_id: int | str | None
    ) -> tuple[Proposals, Tensor | None]:
        square = self.sam.image_embedding(images)
        with in_float32(square):  # its thresholds tell qualities apart that bfloat16 does not
            proposals = propose(self.sam.model, square, images.sizes[0], self.settings)
        return proposals, square if self.shared else None


@dataclass(frozen=True)
class StoredProposals:
    """Proposals that frozenseg make_sam_masks has left on disk."""

    folder: ProposalFolder

    def __call__(
        self, images: ImageBatch, image_id: int | str | None
    ) -> tuple[Proposals, Tensor | None]:
        assert image_id is not None, "images with proposals on disk have ids"
        height, width = images.sizes[0]
        return self.folder.load(image_id, images.pixels[0, :, :height, :width]), None
