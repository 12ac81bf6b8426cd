"""Fusioner in numpy, written from docs/papers.md, one token and one pixel at a time."""

import math
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


def weights_of(model: Any) -> Weights:
    return {key: value.double().numpy() for key, value in model.state_dict().items()}


def linear(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0.0)


def norm(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    unit = (x - x.mean()) / math.sqrt(x.var() + 1e-5)
    return unit * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])


def block(tokens: list[np.ndarray], w: Weights, name: str, heads: int) -> list[np.ndarray]:
    """Apply a pre-norm transformer block to a list of tokens."""
    dim = len(tokens[0])
    size = dim // heads
    projected = [
        w[f"{name}.attention.in_proj_weight"] @ norm(token, w, f"{name}.attention_norm")
        + w[f"{name}.attention.in_proj_bias"]
        for token in tokens
    ]
    after = []
    for token, mine in zip(tokens, projected, strict=True):
        parts = []
        for head in range(heads):
            at = slice(head * size, (head + 1) * size)
            query = mine[:dim][at]
            scores = np.array([query @ p[dim : 2 * dim][at] / math.sqrt(size) for p in projected])
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            values = [p[2 * dim :][at] for p in projected]
            parts.append(sum(share * value for share, value in zip(shares, values, strict=True)))
        token = token + linear(np.concatenate(parts), w, f"{name}.attention.out_proj")
        hidden = linear(norm(token, w, f"{name}.feed_forward_norm"), w, f"{name}.linear1")
        after.append(token + linear(gelu(hidden), w, f"{name}.linear2"))
    return after


def stack(tokens: list[np.ndarray], w: Weights, name: str, heads: int) -> list[np.ndarray]:
    number = 0
    while f"{name}.{number}.linear1.weight" in w:
        tokens = block(tokens, w, f"{name}.{number}", heads)
        number += 1
    assert number > 0
    return tokens


def double(x: np.ndarray) -> np.ndarray:
    """Resize (C, h, w) to (C, 2h, 2w): bilinear, by pixel centres (align_corners=False), with
    repeated edges."""
    for axis in (1, 2):
        size = x.shape[axis]
        rows = []
        for target in range(2 * size):
            place = min(max((target + 0.5) / 2 - 0.5, 0), size - 1)
            low = int(place)
            high = min(low + 1, size - 1)
            part = place - low
            rows.append((1 - part) * x.take(low, axis) + part * x.take(high, axis))
        x = np.stack(rows, axis)
    return x


def convolve(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    """Apply a 3 x 3 convolution with zero padding."""
    channels, height, width = x.shape
    padded = np.zeros((channels, height + 2, width + 2))
    padded[:, 1:-1, 1:-1] = x
    kernel, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    out = np.zeros((len(kernel), height, width))
    for i in range(height):
        for j in range(width):
            window = padded[:, i : i + 3, j : j + 3]
            out[:, i, j] = [(window * one).sum() + b for one, b in zip(kernel, bias, strict=True)]
    return out


def fusioner(
    patches: np.ndarray,
    vectors: np.ndarray,
    grid: tuple[int, int],
    w: Weights,
    *,
    heads: int,
    temperature: float,
    doublings: int = 3,
) -> np.ndarray:
    """Return mask logits (K, 8h, 8w), with 3 doublings, for the patches (N, C) of an image and its
    class vectors (K, D)."""
    visual = [
        norm(linear(norm(p, w, "fusion.visual_input.0"), w, "fusion.visual_input.1"), w,
             "fusion.visual_input.2")
        for p in patches
    ]  # fmt: skip
    words = [
        linear(norm(v, w, "fusion.text_input.0"), w, "fusion.text_input.1")
        + w["fusion.text_embedding"]
        for v in vectors
    ]
    if "fusion.norm.weight" in w:  # early
        mixed = stack(visual + words, w, "fusion.blocks", heads)
        mixed = [norm(token, w, "fusion.norm") for token in mixed]
        visual, words = mixed[: len(visual)], mixed[len(visual) :]
    else:
        visual = [
            norm(t, w, "fusion.visual_norm")
            for t in stack(visual, w, "fusion.visual_blocks", heads)
        ]
        words = [
            norm(stack([word], w, "fusion.text_blocks", heads)[0], w, "fusion.text_norm")
            for word in words
        ]
    words = [linear(word, w, "fusion.text_projection") for word in words]
    cells = np.stack([linear(token, w, "fusion.visual_projection") for token in visual])
    features = cells.T.reshape(-1, *grid)
    for number in range(4):
        if 0 < number <= doublings:
            features = double(features)
        features = convolve(features, w, f"decoder.convolutions.{number}")
        for channel in features:
            channel[:] = (channel - channel.mean()) / math.sqrt(channel.var() + 1e-5)
        features = np.maximum(features, 0)
    kernel, bias = w["decoder.output.weight"][:, :, 0, 0], w["decoder.output.bias"]
    height, width = features.shape[1:]
    logits = np.zeros((len(words), height, width))
    for i in range(height):
        for j in range(width):
            pixel = kernel @ features[:, i, j] + bias
            for k, word in enumerate(words):
                cosine = pixel @ word / np.linalg.norm(pixel) / np.linalg.norm(word)
                logits[k, i, j] = cosine / temperature
    return logits
