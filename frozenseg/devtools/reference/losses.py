"""Compare the training losses with reference vectors (`losses.json`, `losses.npz`)."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frozenseg.devtools.reference.compare import BOUND
from frozenseg.errors import UserError
from frozenseg.files import read_arrays, read_json
from frozenseg.losses.matcher import TargetBatch
from frozenseg.losses.set_criterion import SetCriterion
from frozenseg.structures import MaskPredictions, Targets

SEEDS = 32


def check_losses(prefix: Path, seeds: int = SEEDS) -> list[tuple[str, float]]:
    """Return rows (entry, error) for the reference `prefix`.json and `prefix`.npz.

    The sampled points are random, so each loss is averaged over `seeds` draws. The reference allows
    a difference of 1 % of the expected mean or of three standard errors, whichever is larger. The
    error of a loss is 1e-3 * |difference| / allowance, so that it reaches the bound of 1e-3 exactly
    at this allowance. The error of `matching_b`, for image b at the last output, is 0 if the
    matching equals the expected one, else 1.

    Our matching is the most frequent one over the draws: two assignments of the reference case have
    such similar costs that one draw in ten prefers the other. The published draws also varied: the
    standard deviation of `loss_ce` over them is not 0, and only the matching can change this loss.
    """
    case = read_json(f"{prefix}.json")
    arrays = read_arrays(f"{prefix}.npz")
    try:
        criterion = _criterion(case)
        predictions, targets = _predictions(arrays), _targets(arrays)
        expected = {
            name: (float(entry["mean"]), float(entry["sd"]))
            for name, entry in case["losses"].items()
        }
        matching = [tuple(map(tuple, image)) for image in case["matching"]]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{prefix}.json, {prefix}.npz: {error} missing or of the wrong form; these are not "
            "reference vectors of the losses, copy them again"
        ) from None
    draws: dict[str, list[float]] = {}
    for seed in range(seeds):
        losses = criterion(predictions, targets, seeds=image_seeds(seed, len(targets)))
        for name, loss in losses.items():
            draws.setdefault(name, []).append(loss.item())
    rows = [
        (name, _error(float(np.mean(draws.get(name, [math.inf]))), mean, sd, seeds))
        for name, (mean, sd) in expected.items()
    ]
    ours = _usual_matching(criterion, predictions, targets, seeds)
    return rows + [
        (f"matching_{image}", float(pairs != expected_pairs))
        for image, (pairs, expected_pairs) in enumerate(zip(ours, matching, strict=True))
    ]


def _error(ours: float, mean: float, sd: float, seeds: int) -> float:
    allowance = max(0.01 * abs(mean), 3 * sd / math.sqrt(seeds))
    return BOUND * abs(ours - mean) / allowance


def image_seeds(draw: int, images: int) -> torch.Tensor:
    """Return seeds (B,), one for each image, which differ from draw to draw."""
    return torch.arange(images) + images * draw


def _usual_matching(
    criterion: SetCriterion, predictions: MaskPredictions, targets: list[Targets], seeds: int
) -> list[tuple[tuple[int, ...], ...]]:
    """Return (queries, objects) of the last output's most frequent matching, for each image."""
    batch = TargetBatch.collate(
        targets, num_classes=criterion.num_classes, device=predictions.mask_logits.device
    )
    last = MaskPredictions(predictions.class_logits, predictions.mask_logits)
    counters: list[Counter[tuple[tuple[int, ...], ...]]] = [Counter() for _ in targets]
    for seed in range(seeds):
        matching = criterion.matcher([last], batch, image_seeds(seed, len(targets)))
        for image, (counter, offset) in enumerate(zip(counters, batch.offsets, strict=True)):
            pairs = matching.images == image
            queries = matching.queries[0, pairs].tolist()
            objects = (matching.objects[0, pairs] - offset).tolist()
            counter[tuple(queries), tuple(objects)] += 1
    return [counter.most_common(1)[0][0] for counter in counters]


def _criterion(case: dict[str, Any]) -> SetCriterion:
    weights = case["matcher_weights"]
    return SetCriterion(
        num_classes=case["classes"],
        num_points=case["points"],
        oversample_ratio=case["oversample_ratio"],
        importance_sample_ratio=case["importance_sample_ratio"],
        class_weight=weights["class_"],
        mask_weight=weights["mask"],
        dice_weight=weights["dice"],
        no_object_weight=case["no_object_weight"],
    )


def _predictions(arrays: dict[str, np.ndarray]) -> MaskPredictions:
    """Return the last output and the two auxiliary ones that the reference derives from it."""
    logits = torch.from_numpy(arrays["pred_logits"]).float()
    masks = torch.from_numpy(arrays["pred_masks"]).float()
    auxiliary = [
        MaskPredictions(logits * 0.5, masks * 0.7),
        MaskPredictions(logits.flip(1), masks.flip(1) * 1.2),
    ]
    return MaskPredictions(logits, masks, auxiliary)


def _targets(arrays: dict[str, np.ndarray]) -> list[Targets]:
    return [
        Targets(
            torch.from_numpy(arrays[f"labels_{image}"]),
            torch.from_numpy(np.unpackbits(arrays[f"masks_{image}"], axis=-1)).bool(),
        )
        for image in range(len(arrays["pred_logits"]))
    ]
