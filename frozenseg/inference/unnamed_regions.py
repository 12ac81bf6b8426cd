"""Regions of training images that nobody annotated, and that SAM proposes.

The published training calls them void. As targets without a class their masks can be learned all
the same, and whatever they show can be found when it is named at test.
"""

from dataclasses import dataclass

import numpy as np

from frozenseg.data.records import Record
from frozenseg.data.transforms import ShortestEdgeResize, resize_to_tensor
from frozenseg.inference.proposal_files import ProposalFolder
from frozenseg.inference.proposals import Proposals


@dataclass(frozen=True)
class UnnamedRegions:
    """Finds them among proposals on disk, for `SegmentationDataset`.

    folder: of `frozenseg make_sam_masks`. resize: of the images that these were made from.
    """

    folder: ProposalFolder
    resize: ShortestEdgeResize

    def __call__(self, record: Record, image: np.ndarray, annotated: np.ndarray) -> np.ndarray:
        """Return what `region_numbers` does for an image (H, W, 3) uint8 and its annotated pixels
        (H, W) bool; raises `UserError` where the image has no proposals."""
        assert record.image_id is not None, "images of a data set have ids"
        seen = resize_to_tensor(image, self.resize.short, self.resize.long)
        return region_numbers(self.folder.load(record.image_id, seen), annotated)


def region_numbers(proposals: Proposals, annotated: np.ndarray) -> np.ndarray:
    """Return a map (H, W) that numbers the proposals that are not annotated; 0: none.

    Those of the best estimated quality come first. Each gets the pixels that are neither annotated
    (H, W) nor of an earlier one, and is left out if that is less than half of it.
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
