"""Class-free mask proposals: SAM is prompted with a grid of points.

`frozenseg.inference.join_proposals` adds the classified proposals to the queries' masks.

The masks equal those of segment-anything's `SamAutomaticMaskGenerator` with the published settings
of FrozenSeg, with less work: the decoder's attention is rearranged (`encoders.sam_decoder`), only
masks with sufficient predicted quality are computed, and all steps are batched.

Legend: N prompts, M candidate masks, P proposals, C channels, H x W pixels of the image, S SAM's
side in pixels, s side of SAM's low-resolution masks (S / 4 for patches of 16 pixels), h x w cells
of a proposal.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor
from torchvision.ops import nms

from frozenseg.encoders.sam_decoder import PointDecoder
from frozenseg.errors import UserError
from frozenseg.inference.regions import mask_boxes

# Proposals store logits of -6 to 6 (probabilities of 0.25 to 99.75 %) in 8 bits.
LOGIT_STEP = 1 / 8
MOST_CODE = 48
# The most pixels of masks at image size that exist at one time.
PIXELS_AT_ONCE = 24_000_000
# All eight neighbours of a pixel, but only within its own mask.
NEIGHBOURS = np.zeros((3, 3, 3), dtype=bool)
NEIGHBOURS[1] = True


@dataclass(frozen=True)
class ProposalSettings:
    """The settings of the proposals; the defaults are FrozenSeg's (its save_sam_masks.py).

    points_per_side: points along each side of the grid of prompts.
    predicted_iou: the quality, by SAM's own estimate, that a mask must exceed.
    stability: the least IoU of the mask at logit threshold +1 with the mask at threshold -1.
    box_iou: of two masks whose boxes have a larger IoU, only the better one is kept.
    min_region_area: islands and holes of a mask with fewer pixels are removed.
    max_masks: how many masks are kept, the largest first.
    points_per_batch: affects only time and memory. None: 64, but 16 on a CPU, where small tensors
        stay in the cache (measured: a third less time).
    """

    points_per_side: int = 32
    predicted_iou: float = 0.8
    stability: float = 0.7
    box_iou: float = 0.7
    min_region_area: int = 100
    max_masks: int = 50
    points_per_batch: int | None = None

    def __post_init__(self) -> None:
        for name in ("points_per_side", "max_masks", "points_per_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"SAM proposals: {name} {value} must be at least 1")

    def identity(self) -> dict[str, float]:
        """Return the settings that change the result."""
        return {key: value for key, value in asdict(self).items() if key != "points_per_batch"}


@dataclass(frozen=True)
class Proposals:
    """Soft class-free masks of one image, the largest first, in the form stored on disk.

    codes: (P, h, w) int8, logits in steps of `LOGIT_STEP`; they span the image without padding, at
        SAM's low resolution.
    predicted_iou: (P,) float32, SAM's own estimate of the masks' quality.
    """

    codes: Tensor
    predicted_iou: Tensor

    def __len__(self) -> int:
        return len(self.codes)

    def logits(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the mask logits (P, h, w), float32."""
        return self.codes.to(device).float() * LOGIT_STEP

    def masks(self, size: tuple[int, int]) -> Tensor:
        """Return the masks (P, *size) bool on the CPU; size: (height, width) of the image."""
        if not len(self):  # `interpolate` refuses empty tensors
            return torch.zeros((0, *size), dtype=torch.bool)
        parts = self.logits()[None].split(_at_once(size), dim=1)
        resized = (F.interpolate(p, size, mode="bilinear", align_corners=False) for p in parts)
        return torch.cat([logits[0] > 0 for logits in resized])

    @classmethod
    def from_logits(cls, logits: Tensor, predicted_iou: Tensor) -> "Proposals":
        """Round logits (P, h, w) to codes."""
        codes = (logits / LOGIT_STEP).round().clamp(-MOST_CODE, MOST_CODE)
        # Rounding must not change a pixel inside the mask to logit 0, which counts as outside.
        codes = torch.where((codes == 0) & (logits > 0), torch.ones_like(codes), codes)
        return cls(codes.to(torch.int8).cpu(), predicted_iou.float().cpu())


class _Candidates:
    """Masks that passed the filters of quality and stability.

    low: (M, s, s), logits. predicted_iou: (M,). boxes: (M, 4) float, x0, y0, x1, y1, where x1 and
    y1 are inclusive, as in segment-anything.
    """

    def __init__(self, low: Tensor, predicted_iou: Tensor, boxes: Tensor) -> None:
        self.low = low
        self.predicted_iou = predicted_iou
        self.boxes = boxes

    def __getitem__(self, rows: Tensor) -> "_Candidates":
        return _Candidates(self.low[rows], self.predicted_iou[rows], self.boxes[rows])

    @classmethod
    def cat(cls, parts: list["_Candidates"]) -> "_Candidates":
        return cls(
            torch.cat([part.low for part in parts]),
            torch.cat([part.predicted_iou for part in parts]),
            torch.cat([part.boxes for part in parts]),
        )


@torch.inference_mode()
def propose(
    decoder: PointDecoder,
    embedding: Tensor,
    image_size: tuple[int, int],
    settings: ProposalSettings,
) -> Proposals:
    """Compute the proposals of one image.

    embedding: (1, C, s / 4, s / 4), of the image as SAM expects it: the longer side has S pixels,
        and the image is at the top left.
    image_size: (H, W) before that resize; areas, boxes and stability are measured at this size.
    """
    masks, low, quality = automatic_masks(decoder, embedding, image_size, settings)
    order = masks.flatten(1).sum(1).argsort(descending=True, stable=True)[: settings.max_masks]
    content = _content(decoder, image_size)
    if not len(order):
        return Proposals(torch.zeros((0, *_low_size(content)), dtype=torch.int8), torch.zeros(0))
    kept = _spanning_content(low[order], content, decoder.side)
    # Remove islands and fill holes at low resolution as well.
    clean = F.interpolate(masks[order, None].float(), size=kept.shape[-2:], mode="area")[:, 0]
    kept = torch.where((clean < 0.5) & (kept > 0), -kept, kept)
    kept = torch.where((clean > 0.5) & (kept <= 0), (-kept).clamp(min=LOGIT_STEP), kept)
    return Proposals.from_logits(kept, quality[order])


def automatic_masks(
    decoder: PointDecoder,
    embedding: Tensor,
    image_size: tuple[int, int],
    settings: ProposalSettings,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute all masks of segment-anything's generator, before the largest are chosen.

    Returns masks (P, H, W) bool, their low-resolution logits (P, s, s), and predicted IoU (P,).
    """
    at_once = settings.points_per_batch or (16 if embedding.device.type == "cpu" else 64)
    parts = [
        _batch(decoder, embedding, points, image_size, settings)
        for points in _grid(decoder, image_size, settings.points_per_side).split(at_once)
    ]
    candidates = _Candidates.cat(parts)
    candidates = candidates[nms(candidates.boxes, candidates.predicted_iou, settings.box_iou)]
    masks, changed = _cleaned(candidates.low, decoder, image_size, settings.min_region_area)
    # If masks have become duplicates by cleaning, those that it did not change are preferred. NMS
    # preserves the order of equal scores.
    if settings.min_region_area > 0 and len(masks):
        kept = nms(_boxes(masks), (~changed).float(), settings.box_iou)
        masks, candidates = masks[kept], candidates[kept]
    return masks, candidates.low, candidates.predicted_iou


def _content(decoder: PointDecoder, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width), in pixels, of the image within SAM's square input."""
    scale = decoder.side / max(image_size)
    return max(1, int(image_size[0] * scale + 0.5)), max(1, int(image_size[1] * scale + 0.5))


def _low_size(content: tuple[int, int]) -> tuple[int, int]:
    return -(-content[0] // 4), -(-content[1] // 4)


def _grid(decoder: PointDecoder, image_size: tuple[int, int], per_side: int) -> Tensor:
    """Return the grid of prompts (N, 2), row by row: x and y in pixels of SAM's square input."""
    steps = (torch.arange(per_side, dtype=torch.float64) + 0.5) / per_side
    height, width = _content(decoder, image_size)
    y, x = torch.meshgrid(steps * height, steps * width, indexing="ij")
    return torch.stack((x, y), dim=-1).view(-1, 2).float().to(decoder.sam.device)


def _batch(
    decoder: PointDecoder,
    embedding: Tensor,
    points: Tensor,
    image_size: tuple[int, int],
    settings: ProposalSettings,
) -> _Candidates:
    low, quality = _decode(decoder, embedding, points, settings.predicted_iou)
    stable, boxes = [], []
    for part in low.split(_at_once(image_size)):
        logits = _at_image_size(part, decoder, image_size)
        inner = (logits > 1).flatten(1).sum(1)
        outer = (logits > -1).flatten(1).sum(1)
        stable.append(inner / outer >= settings.stability)  # 0 / 0 (NaN) does not pass
        boxes.append(_boxes(logits > 0))
    if not stable:
        return _Candidates(low, quality, low.new_zeros((0, 4)))
    kept = torch.cat(stable)
    return _Candidates(low, quality, torch.cat(boxes))[kept]


def _decode(
    decoder: PointDecoder, embedding: Tensor, points: Tensor, least_quality: float
) -> tuple[Tensor, Tensor]:
    """Return the logits (M, s, s) and the predicted IoU (M,) of the masks of points (N, 2) whose
    predicted IoU exceeds `least_quality`."""
    tokens, cells, quality = decoder.attend(embedding, points)
    rows, columns = (quality > least_quality).nonzero(as_tuple=True)
    prompts, prompt_index = rows.unique(return_inverse=True)
    if not len(prompts):
        side = 4 * embedding.shape[-1]
        return embedding.new_zeros((0, side, side)), embedding.new_zeros(0)
    masks = decoder.masks(tokens[prompts], cells[prompts])
    return masks[prompt_index, columns], quality[rows, columns]


def _at_once(image_size: tuple[int, int]) -> int:
    return max(1, PIXELS_AT_ONCE // (image_size[0] * image_size[1]))


def _at_image_size(low: Tensor, decoder: PointDecoder, image_size: tuple[int, int]) -> Tensor:
    """Resize logits (M, s, s) to image size (M, H, W), in the two steps of segment-anything."""
    height, width = _content(decoder, image_size)
    square = F.interpolate(
        low[:, None], size=(decoder.side,) * 2, mode="bilinear", align_corners=False
    )
    inside = square[..., :height, :width]
    if inside.shape[-2:] != image_size:
        inside = F.interpolate(inside, size=image_size, mode="bilinear", align_corners=False)
    return inside[:, 0]


def _boxes(masks: Tensor) -> Tensor:
    """Return boxes (M, 4) with inclusive ends, as in segment-anything; zeros for empty masks."""
    boxes = mask_boxes(masks)
    boxes[:, 2:] = (boxes[:, 2:] - 1).clamp(min=0)
    return boxes


def _spanning_content(low: Tensor, content: tuple[int, int], side: int) -> Tensor:
    """Resample masks (P, s, s) over SAM's square input to (P, h, w) over the image within it."""
    size = _low_size(content)
    theta = low.new_zeros((1, 2, 3))
    for axis, (length, row) in enumerate(((content[1], 0), (content[0], 1))):
        theta[0, row, axis], theta[0, row, 2] = length / side, length / side - 1
    grid = F.affine_grid(theta, [1, 1, *size], align_corners=False)
    return F.grid_sample(
        low[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0]


def _cleaned(
    low: Tensor, decoder: PointDecoder, image_size: tuple[int, int], least_area: int
) -> tuple[Tensor, Tensor]:
    """Return masks (M, H, W) bool without small holes and islands, and which masks had any (M,)."""
    masks, changed = [], []
    for part in low.split(_at_once(image_size)):
        inside = _at_image_size(part, decoder, image_size) > 0
        if least_area > 0:
            array = inside.cpu().numpy()
            array, filled = remove_small_regions(array, least_area, holes=True)
            array, cut = remove_small_regions(array, least_area, holes=False)
            inside = torch.from_numpy(array).to(low.device)
            changed.append(torch.from_numpy(filled | cut).to(low.device))
        else:
            changed.append(torch.zeros(len(part), dtype=torch.bool, device=low.device))
        masks.append(inside)
    if not masks:
        return low.new_zeros((0, *image_size)).bool(), low.new_zeros(0).bool()
    return torch.cat(masks), torch.cat(changed)


def remove_small_regions(
    masks: np.ndarray, least_area: int, *, holes: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Fill the holes, or remove the islands, of masks (M, H, W) bool below `least_area` pixels.

    Pixels that touch at a corner are connected. If all islands of a mask are small, the largest is
    kept; among equally large ones it is the first. Returns the masks, and which of them changed:
    (M,) bool.
    """
    pixels = ~masks if holes else masks
    regions, count = ndimage.label(pixels, structure=NEIGHBOURS)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    small = sizes < least_area
    small[0] = False
    if not small.any():
        return masks, np.zeros(len(masks), dtype=bool)
    changed = (small[regions]).any(axis=(1, 2))
    if holes:
        return masks | small[regions], changed
    mask_of_region = np.zeros(count + 1, dtype=np.int64)
    mask_of_region[1:] = [extent[0].start for extent in ndimage.find_objects(regions)]
    largest_first = np.argsort(-sizes[1:], kind="stable") + 1
    _, first = np.unique(mask_of_region[largest_first], return_index=True)
    small[largest_first[first]] = False
    return masks & ~small[regions], changed
