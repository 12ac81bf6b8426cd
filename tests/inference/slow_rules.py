"""MaskFormer's rules for panoptic, semantic and instance results, one query at a time.

They are written from docs/papers.md. Each pixel goes to the query with the largest product of class
score and mask probability; a query that keeps less than `overlap_threshold` of its own mask is
dropped; queries of one stuff class become one segment.
"""

import numpy as np
from scipy.special import expit, softmax


def slow_panoptic(
    class_logits: np.ndarray,
    masks: np.ndarray,
    is_thing: tuple[bool, ...],
    object_threshold: float,
    overlap_threshold: float,
) -> tuple[np.ndarray, list[tuple[int, int, float]]]:
    """Return ids (H, W) and the segments (class, area, score), whose ids begin at 1.

    masks: (Q, H, W) logits at output size.
    """
    probabilities = softmax(class_logits.astype(np.float64), axis=-1)
    void = len(is_thing)
    kept = [
        query
        for query, row in enumerate(probabilities)
        if row.argmax() != void and row.max() > object_threshold
    ]
    ids = np.zeros(masks.shape[1:], dtype=np.int32)
    segments: list[list] = []
    if not kept:
        return ids, []
    soft = expit(masks[kept].astype(np.float64))
    scores = np.array([probabilities[query].max() for query in kept])
    winner = (scores[:, None, None] * soft).argmax(0)
    stuff: dict[int, int] = {}
    for place, query in enumerate(kept):
        label = int(probabilities[query].argmax())
        won, own = winner == place, soft[place] >= 0.5
        region = won & own
        if not region.any() or won.sum() / own.sum() < overlap_threshold:
            continue
        if not is_thing[label] and label in stuff:
            number = stuff[label]
            segments[number - 1][2] = max(segments[number - 1][2], scores[place])
        else:
            segments.append([label, 0, scores[place]])
            number = len(segments)
            if not is_thing[label]:
                stuff[label] = number
        ids[region] = number
    for number, segment in enumerate(segments, 1):
        segment[1] = int((ids == number).sum())
    return ids, [tuple(segment) for segment in segments]


def slow_semantic(class_logits: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return scores (K, H, W)."""
    probabilities = softmax(class_logits.astype(np.float64), axis=-1)[:, :-1]
    scores = np.zeros((probabilities.shape[1], *masks.shape[1:]))
    for query, row in enumerate(probabilities):
        for label, probability in enumerate(row):
            scores[label] += probability * expit(masks[query].astype(np.float64))
    return scores


def slow_instances(
    class_logits: np.ndarray, masks: np.ndarray, is_thing: tuple[bool, ...], count: int
) -> list[tuple[float, int, int]]:
    """Return (score, class, query), best first, of the things among the `count` best pairs."""
    probabilities = softmax(class_logits.astype(np.float64), axis=-1)[:, :-1]
    pairs = [
        (probability, label, query)
        for query, row in enumerate(probabilities)
        for label, probability in enumerate(row)
    ]
    found = []
    for probability, label, query in sorted(pairs, reverse=True)[:count]:
        if is_thing[label]:
            solid = masks[query] > 0
            soft = expit(masks[query].astype(np.float64))
            quality = (soft * solid).sum() / (solid.sum() + 1e-6)
            found.append((probability * quality, label, query))
    return sorted(found, reverse=True)


def slow_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return (x0, y0, x1, y1) with exclusive ends; zeros for an empty mask."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return (0, 0, 0, 0)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
