"""Regions of training images that have no annotation, but that SAM proposes.

The published training labels them void. If they are targets without a class, the model can learn
their masks all the same, and can find such objects when a vocabulary names them at inference.
"""

from dataclasses import dataclass

import numpy as np

from frozenseg.data.records import Record
from frozenseg.data.transforms import ShortestEdgeResize, resize_to_tensor
from frozenseg.inference.proposal_files import ProposalFolder
from frozenseg.inference.proposals import Proposals


@dataclass(frozen=True)
class UnnamedRegions:
    """Finds unnamed regions among proposals on disk, for `SegmentationDataset`.

    folder: the folder that `frozenseg make_sam_masks` wrote. resize: the resize of the images from
    which these proposals were made.
    """

    folder: ProposalFolder
    resize: ShortestEdgeResize

    def __call__(self, record: Record, image: np.ndarray, annotated: np.ndarray) -> np.ndarray:
        """Return the map of `region_numbers` for an image (H, W, 3) uint8 and its annotated pixels
        (H, W) bool; raises `UserError` if the image has no proposals."""
        assert record.image_id is not None, "images of a data set must have ids"
        seen = resize_to_tensor(image, self.resize.short, self.resize.long)
        return region_numbers(self.folder.load(record.image_id, seen), annotated)


def region_numbers(proposals: Proposals, annotated: np.ndarray) -> np.ndarray:
    """Return a map (H, W) with the number of an unannotated proposal at each pixel; 0: none.

    Proposals are added in the order of their estimated quality, the best first. Each gets those of
    its pixels that neither are annotated nor belong to an earlier proposal, and is left out if
    these are less than half of its mask. annotated: (H, W) bool.
    """
    numbers = np.zeros(annotated.shape, np.min_scalar_type(len(proposals)))
    masks = proposals.masks((annotated.shape[0], annotated.shape[1])).numpy()
    free = ~annotated
    for index in proposals.predicted_iou.argsort(descending=True, stable=True).tolist():
        left = masks[index] & free
        if left.any() and 2 * np.count_nonzero(left) >= np.count_nonzero(masks[index]):
            numbers[left] = index + 1
            free &= ~left
    return numbers
