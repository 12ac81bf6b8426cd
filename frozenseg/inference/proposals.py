"""Mask proposals: SAM asked at a grid of points for whatever is there, as segment-anything's
`SamAutomaticMaskGenerator` does, with the published settings of FrozenSeg.

Equal masks for less work: the decoder's attention is rearranged (`frozenseg.encoders.sam_decoder`),
masks are only made where SAM's own estimate of their quality passes, and all steps are batched.

Legend: N prompts, M candidate masks, P proposals, C channels, H x W pixels of the image, S SAM's
side in pixels, s side of its low-resolution masks (S / 4), h x w cells of a proposal.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from segment_anything.modeling import Sam
from torch import Tensor
from torchvision.ops import nms

from frozenseg.encoders.sam_decoder import two_way
from frozenseg.errors import UserError
from frozenseg.inference.postprocess import mask_boxes

LOGIT_STEP = 1 / 8  # proposals keep logits of -6 to 6 (0.25 to 99.75 %), in 8 bits
MOST_CODE = 48
PIXELS_AT_ONCE = 24_000_000  # of the masks at image size that exist at one time
NEIGHBOURS = np.zeros((3, 3, 3), dtype=bool)  # all eight, of one mask among many
NEIGHBOURS[1] = True


@dataclass(frozen=True)
class ProposalSettings:
    """What decides the proposals; the published values (FrozenSeg, save_sam_masks.py).

    points_per_side: of the grid. predicted_iou: least quality by SAM's own estimate, exclusive.
    stability: least IoU of the mask at logit +1 with that at -1, inclusive. box_iou: of two masks
    whose boxes overlap further, the better stays. min_region_area: pixels; smaller islands and
    holes of a mask go. max_masks: the largest stay. points_per_batch: changes time and memory only;
    None: 16 on a CPU, where small tensors are reused from its caches (measured: a third less time
    than with 64), else 64.
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
        """All that changes the result."""
        return {key: value for key, value in asdict(self).items() if key != "points_per_batch"}


@dataclass(frozen=True)
class Proposals:
    """Soft class-free masks of one image, in the form that is kept on disk.

    codes: (P, h, w) int8, logits in steps of `LOGIT_STEP`, spanning the image (without padding) at
    SAM's low resolution. predicted_iou: (P,) float32, SAM's own estimate. Largest first.
    """

    codes: Tensor
    predicted_iou: Tensor

    def __len__(self) -> int:
        return len(self.codes)

    def logits(self, device: torch.device | str = "cpu") -> Tensor:
        """(P, h, w) float32."""
        return self.codes.to(device).float() * LOGIT_STEP

    @classmethod
    def from_logits(cls, logits: Tensor, predicted_iou: Tensor) -> "Proposals":
        codes = (logits / LOGIT_STEP).round().clamp(-MOST_CODE, MOST_CODE)
        # A pixel inside stays inside: rounding must not bring it onto the border.
        codes = torch.where((codes == 0) & (logits > 0), torch.ones_like(codes), codes)
        return cls(codes.to(torch.int8).cpu(), predicted_iou.float().cpu())


class _Candidates:
    """Masks that passed the filters of quality and stability, of one batch of prompts or of all.

    low: (M, s, s) logits. predicted_iou: (M,). boxes: (M, 4) x0, y0, x1, y1 as segment-anything
    has them, ends inclusive.
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
    sam: Sam, embedding: Tensor, image_size: tuple[int, int], settings: ProposalSettings
) -> Proposals:
    """Proposals for one image.

    embedding: (1, C, S / 16, S / 16) of the image as SAM wants it: its longer side S pixels, at
    the top left. image_size: (H, W) of the image before that resize; masks are judged at this size.
    """
    masks, low, quality = automatic_masks(sam, embedding, image_size, settings)
    order = masks.flatten(1).sum(1).argsort(descending=True, stable=True)[: settings.max_masks]
    content = _content(sam, image_size)
    if not len(order):
        return Proposals(torch.zeros((0, *_low_size(content)), dtype=torch.int8), torch.zeros(0))
    kept = _spanning_content(low[order], content, _side(sam))
    # What was cut off or filled is so at low resolution too.
    clean = F.interpolate(masks[order, None].float(), size=kept.shape[-2:], mode="area")[:, 0]
    kept = torch.where((clean < 0.5) & (kept > 0), -kept, kept)
    kept = torch.where((clean > 0.5) & (kept <= 0), (-kept).clamp(min=LOGIT_STEP), kept)
    return Proposals.from_logits(kept, quality[order])


def automatic_masks(
    sam: Sam, embedding: Tensor, image_size: tuple[int, int], settings: ProposalSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """All masks, as segment-anything's generator gives them: (P, H, W) bool; with the logits
    (P, s, s) that they come from, and the predicted IoU (P,)."""
    at_once = settings.points_per_batch or (16 if embedding.device.type == "cpu" else 64)
    parts = [
        _batch(sam, embedding, points, image_size, settings)
        for points in _grid(sam, image_size, settings.points_per_side).split(at_once)
    ]
    found = _Candidates.cat(parts)
    found = found[nms(found.boxes, found.predicted_iou, settings.box_iou)]
    masks, changed = _cleaned(found.low, sam, image_size, settings.min_region_area)
    # Masks that cleaning has made alike: those that needed none stay. Equal scores keep the order.
    if settings.min_region_area > 0 and len(masks):
        kept = nms(_boxes(masks), (~changed).float(), settings.box_iou)
        masks, found = masks[kept], found[kept]
    return masks, found.low, found.predicted_iou


def _side(sam: Sam) -> int:
    return int(sam.image_encoder.img_size)


def _content(sam: Sam, image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels of the image in SAM's square."""
    scale = _side(sam) / max(image_size)
    return max(1, int(image_size[0] * scale + 0.5)), max(1, int(image_size[1] * scale + 0.5))


def _low_size(content: tuple[int, int]) -> tuple[int, int]:
    return -(-content[0] // 4), -(-content[1] // 4)


def _grid(sam: Sam, image_size: tuple[int, int], per_side: int) -> Tensor:
    """(N, 2) points x, y in pixels of SAM's square, row by row."""
    steps = (torch.arange(per_side, dtype=torch.float64) + 0.5) / per_side
    height, width = _content(sam, image_size)
    y, x = torch.meshgrid(steps * height, steps * width, indexing="ij")
    return torch.stack((x, y), dim=-1).view(-1, 2).float().to(sam.device)


def _batch(
    sam: Sam,
    embedding: Tensor,
    points: Tensor,
    image_size: tuple[int, int],
    settings: ProposalSettings,
) -> _Candidates:
    low, quality = _decode(sam, embedding, points, settings.predicted_iou)
    stable, boxes = [], []
    for part in low.split(_at_once(image_size)):
        logits = _at_image_size(part, sam, image_size)
        inner = (logits > 1).flatten(1).sum(1)
        outer = (logits > -1).flatten(1).sum(1)
        stable.append(inner / outer >= settings.stability)  # 0 / 0 is not
        boxes.append(_boxes(logits > 0))
    if not stable:
        return _Candidates(low, quality, low.new_zeros((0, 4)))
    kept = torch.cat(stable)
    return _Candidates(low, quality, torch.cat(boxes))[kept]


def _decode(
    sam: Sam, embedding: Tensor, points: Tensor, least_quality: float
) -> tuple[Tensor, Tensor]:
    """Logits (M, s, s) and predicted IoU (M,) of those masks, three a point (N, 2), that promise
    more than `least_quality`.

    SAM's mask decoder, `predict_masks` of segment-anything, in another order: the quality of a
    mask, which needs tokens only, is asked before the mask is made.
    """
    decoder = sam.mask_decoder
    labels = torch.ones((len(points), 1), dtype=torch.int, device=points.device)
    sparse, dense = sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
    fixed = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([fixed.expand(len(points), -1, -1), sparse], dim=1)
    image = (embedding + dense[:1]).flatten(2).mT
    positions = sam.prompt_encoder.get_dense_pe().flatten(2).mT
    tokens_out, cells = two_way(decoder.transformer, image, positions, tokens)
    quality = decoder.iou_prediction_head(tokens_out[:, 0])[:, 1:]  # (N, 3); 0 is for one mask
    rows, columns = (quality > least_quality).nonzero(as_tuple=True)
    prompts, place = rows.unique(return_inverse=True)
    if not len(prompts):
        side = 4 * embedding.shape[-1]
        return embedding.new_zeros((0, side, side)), embedding.new_zeros(0)
    cells = cells[prompts].transpose(1, 2).unflatten(2, embedding.shape[-2:])
    features = decoder.output_upscaling(cells)  # (prompts, C / 8, s, s)
    weights = torch.stack(
        [
            decoder.output_hypernetworks_mlps[number](tokens_out[prompts, 1 + number])
            for number in range(1, decoder.num_mask_tokens)
        ],
        dim=1,
    )
    masks = (weights @ features.flatten(2)).unflatten(2, features.shape[-2:])
    return masks[place, columns], quality[rows, columns]


def _at_once(image_size: tuple[int, int]) -> int:
    return max(1, PIXELS_AT_ONCE // (image_size[0] * image_size[1]))


def _at_image_size(low: Tensor, sam: Sam, image_size: tuple[int, int]) -> Tensor:
    """(M, s, s) -> (M, H, W), by segment-anything's own two resizes."""
    height, width = _content(sam, image_size)
    square = F.interpolate(
        low[:, None], size=(_side(sam),) * 2, mode="bilinear", align_corners=False
    )
    inside = square[..., :height, :width]
    if inside.shape[-2:] != image_size:
        inside = F.interpolate(inside, size=image_size, mode="bilinear", align_corners=False)
    return inside[:, 0]


def _boxes(masks: Tensor) -> Tensor:
    """(M, 4) float, ends inclusive, as segment-anything has them; zeros for empty masks."""
    boxes = mask_boxes(masks)
    boxes[:, 2:] = (boxes[:, 2:] - 1).clamp(min=0)
    return boxes


def _spanning_content(low: Tensor, content: tuple[int, int], side: int) -> Tensor:
    """Resample (P, s, s) over SAM's square to (P, h, w) that spans the image's part of it."""
    size = _low_size(content)
    theta = low.new_zeros((1, 2, 3))
    for axis, (length, row) in enumerate(((content[1], 0), (content[0], 1))):
        theta[0, row, axis], theta[0, row, 2] = length / side, length / side - 1
    grid = F.affine_grid(theta, [1, 1, *size], align_corners=False)
    return F.grid_sample(
        low[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0]


def _cleaned(
    low: Tensor, sam: Sam, image_size: tuple[int, int], least_area: int
) -> tuple[Tensor, Tensor]:
    """Masks (M, H, W) bool of logits (M, s, s) without small holes and islands, and whether they
    had any (M,)."""
    masks, changed = [], []
    for part in low.split(_at_once(image_size)):
        solid = _at_image_size(part, sam, image_size) > 0
        if least_area > 0:
            array = solid.cpu().numpy()
            array, filled = remove_small_regions(array, least_area, holes=True)
            array, cut = remove_small_regions(array, least_area, holes=False)
            solid = torch.from_numpy(array).to(low.device)
            changed.append(torch.from_numpy(filled | cut).to(low.device))
        else:
            changed.append(torch.zeros(len(part), dtype=torch.bool, device=low.device))
        masks.append(solid)
    if not masks:
        return low.new_zeros((0, *image_size)).bool(), low.new_zeros(0).bool()
    return torch.cat(masks), torch.cat(changed)


def remove_small_regions(
    masks: np.ndarray, least_area: int, *, holes: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Masks (M, H, W) bool with holes filled, or islands removed, that have fewer than `least_area`
    pixels (neighbours also at corners), and which masks that changed (M,).

    If all islands of a mask are small, the largest stays, the first of equally large ones.
    """
    work = ~masks if holes else masks
    regions, count = ndimage.label(work, structure=NEIGHBOURS)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    small = sizes < least_area
    small[0] = False
    if not small.any():
        return masks, np.zeros(len(masks), dtype=bool)
    changed = (small[regions]).any(axis=(1, 2))
    if holes:
        return masks | small[regions], changed
    owner = np.zeros(count + 1, dtype=np.int64)  # the mask that each region belongs to
    first = ndimage.find_objects(regions)
    owner[1:] = [place[0].start for place in first]
    best = np.zeros(len(masks), dtype=np.int64)
    order = np.argsort(-sizes[1:], kind="stable") + 1
    seen, where = np.unique(owner[order], return_index=True)
    best[seen] = order[where]
    small[best[seen]] = False
    return masks & ~small[regions], changed
