"""The criterion again, slow and obvious: loops over outputs, images, pairs and points."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.structures import UNNAMED, MaskPredictions, Targets

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT, VOID_WEIGHT = 2.0, 5.0, 5.0, 0.1


def fixed_points(count: int) -> Tensor:
    """(count, 2) points that depend on nothing but their number."""
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(count))


def same_points_everywhere(keys: Tensor, count: int) -> Tensor:
    """Stands in for `points.random_points`: one set of points for all masks."""
    return fixed_points(count).to(keys.device).expand(*keys.shape, count, 2)


def value_at(image: Tensor, point: Tensor) -> Tensor:
    """Bilinear value of an image (h, w) at a point (x, y) in 0-1, zero outside."""
    height, width = image.shape
    x, y = float(point[0]) * width - 0.5, float(point[1]) * height - 0.5
    value = torch.zeros((), dtype=image.dtype)
    for column in (math.floor(x), math.floor(x) + 1):
        for row in (math.floor(y), math.floor(y) + 1):
            if 0 <= column < width and 0 <= row < height:
                share = (1 - abs(x - column)) * (1 - abs(y - row))
                value = value + share * image[row, column]
    return value


def values_at(image: Tensor, points: Tensor) -> Tensor:
    return torch.stack([value_at(image, point) for point in points])


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    probs = logits.sigmoid()
    return 1 - (2 * (probs * labels).sum() + 1) / (probs.sum() + labels.sum() + 1)


def best_assignment(cost: list[list[float]]) -> list[tuple[int, int]]:
    """Pairs (row, column) of least cost among all assignments there are."""
    rows, columns = len(cost), len(cost[0]) if cost else 0
    if rows < columns:
        turned = best_assignment([list(column) for column in zip(*cost, strict=True)])
        return [(row, column) for column, row in turned]
    options = (
        [(row, column) for column, row in enumerate(chosen)]
        for chosen in itertools.permutations(range(rows), columns)
    )
    return min(options, key=lambda pairs: sum(cost[row][column] for row, column in pairs))


def match(class_logits: Tensor, mask_logits: Tensor, target: Targets, num_points: int) -> list:
    points = fixed_points(num_points)
    queries = [values_at(mask, points) for mask in mask_logits.detach().double()]
    labels = [values_at(mask, points) for mask in target.masks.double()]
    if not labels:
        return []
    cost = []
    for query, logits in zip(queries, class_logits.detach().double(), strict=True):
        row = []
        for class_id, label in zip(target.class_ids, labels, strict=True):
            known = int(class_id) != UNNAMED
            row.append(
                -CLASS_WEIGHT * (float(logits.softmax(0)[class_id]) if known else 0.0)
                + MASK_WEIGHT * float(F.binary_cross_entropy_with_logits(query, label))
                + DICE_WEIGHT * float(dice_loss(query, label))
            )
        cost.append(row)
    return best_assignment(cost)


def pair_points(mask: Tensor, num_points: int, oversample: float, importance: float) -> Tensor:
    number = int(num_points * oversample)
    drawn = fixed_points(number + num_points - int(num_points * importance))
    candidates, rest = drawn[:number], drawn[number:]
    certainty = [abs(float(value_at(mask, point))) for point in candidates]
    order = sorted(range(len(candidates)), key=lambda index: certainty[index])
    count = int(num_points * importance)
    return torch.cat([candidates[order[:count]], rest])


def output_losses(
    output: MaskPredictions,
    targets: list[Targets],
    num_points: int,
    oversample: float,
    importance: float,
) -> dict[str, Tensor]:
    num_classes = output.class_logits.shape[2] - 1
    class_loss, class_weight = torch.zeros(()), 0.0
    mask_loss, dice = torch.zeros(()), torch.zeros(())
    images = zip(output.class_logits, output.mask_logits, targets, strict=True)
    for class_logits, mask_logits, target in images:
        pairs = dict(match(class_logits, mask_logits, target, num_points))
        for query, logits in enumerate(class_logits):
            class_id = int(target.class_ids[pairs[query]]) if query in pairs else num_classes
            weight = 1.0 if query in pairs and class_id != UNNAMED else VOID_WEIGHT
            if class_id != UNNAMED:
                class_loss = class_loss - weight * logits.log_softmax(0)[class_id]
            class_weight += weight
        for query, item in pairs.items():
            mask = mask_logits[query]
            points = pair_points(mask.detach(), num_points, oversample, importance)
            logits = values_at(mask, points)
            labels = values_at(target.masks[item].float(), points)
            mask_loss = mask_loss + F.binary_cross_entropy_with_logits(logits, labels)
            dice = dice + dice_loss(logits, labels)
    num_masks = max(sum(len(target.class_ids) for target in targets), 1)
    return {
        "loss_ce": class_loss / class_weight,
        "loss_mask": mask_loss / num_masks,
        "loss_dice": dice / num_masks,
    }
