"""Linear probes: how well the edges of regions can be read off the frozen feature maps.

An injector can help only if SAM's map holds something that CLIP's levels lack. A linear classifier
of cells ("is there an edge in this cell?") on each map, and on several maps together, shows what
they hold.

Legend: N cells, C channels, h x w cells of `CELL` x `CELL` pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.data.transforms import resize_labels, resize_shortest_edge, resize_to_tensor
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.small_world.scene import Scene
from frozenseg.structures import ImageBatch

CELL = 4  # pixels, the side of the cells in which the decoder makes masks
DAMPING = 1e-3  # of the least squares, as a share of the mean variance


@dataclass(frozen=True)
class Cells:
    """The cells of a scene.

    maps: (C, h, w) by the name of the map, each with cells of its own size over the padded image.
    grid: h and w of the cells of the padded image. inside: h and w of those cells that lie entirely
    in the image. edge: (N,) whether each cell inside has more than one region. unseen: (N,) whether
    any part of the cell belongs to an unseen class.
    """

    maps: Mapping[str, Tensor]
    grid: tuple[int, int]
    inside: tuple[int, int]
    edge: Tensor
    unseen: Tensor

    def features(self) -> Tensor:
        """Return all maps, resized to the cells and joined, then a constant 1: (N, C + 1)."""
        rows = []
        for level in self.maps.values():
            resized = F.interpolate(level[None], self.grid, mode="bilinear", align_corners=False)
            rows.append(resized[0, :, : self.inside[0], : self.inside[1]].flatten(1).T)
        return torch.cat([*rows, torch.ones(len(self.edge), 1)], dim=1)


@dataclass(frozen=True)
class ProbeScores:
    """The scores of a probe on test scenes, in per cent.

    The threshold is the one at which, in the training scenes, as many cells are called edges as
    have one, so precision and recall go together. recall_seen: of edges in cells without an unseen
    class; recall_unseen: of edges in cells with one.
    """

    precision: float
    recall_seen: float
    recall_unseen: float


def cells_of(
    model: FrozenSeg, scene: Scene, seen: frozenset[str], *, annotated: bool, sides: tuple[int, int]
) -> Cells:
    """Return the cells of a scene, with the features of the frozen encoders of a model.

    seen: the names of the seen classes. annotated: whether regions of unseen classes count as void,
    as in training, so that there is no edge between two of them. sides: the shorter side in pixels
    to which the scene is resized, and the limit of the longer one.
    """
    image = resize_to_tensor(scene.image, *sides)
    height, width = scene.ids.shape
    size = resize_shortest_edge(height, width, *sides)
    images = ImageBatch.collate([image], model.size_divisor, device=model.device)
    features = model.encode(images)
    padded = images.pixels.shape[-2:]
    grid = (padded[0] // CELL, padded[1] // CELL)
    inside = (size[0] // CELL, size[1] // CELL)  # cells that lie entirely in the image

    levels = dict(features.clip.levels)
    if features.sam is not None:
        levels["sam"] = features.sam
    maps = {name: level[0].float().cpu() for name, level in levels.items()}

    is_unseen = np.array([False, *(region.name not in seen for region in scene.regions)])
    ids = scene.ids if not annotated else np.where(is_unseen[scene.ids], 0, scene.ids)
    blocks = _blocks(resize_labels(ids, size), inside)
    unseen = _blocks(is_unseen[resize_labels(scene.ids, size)], inside)
    edge = blocks.max(1) != blocks.min(1)
    return Cells(maps, grid, inside, torch.from_numpy(edge), torch.from_numpy(unseen.any(1)))


def _blocks(labels: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the pixels of each cell, (N, CELL * CELL)."""
    height, width = grid[0] * CELL, grid[1] * CELL
    cut = labels[:height, :width].reshape(grid[0], CELL, grid[1], CELL)
    return cut.transpose(0, 2, 1, 3).reshape(grid[0] * grid[1], CELL * CELL)


def probe(
    training: Sequence[Cells], test: Sequence[Cells], choices: Sequence[Sequence[str]]
) -> list[ProbeScores]:
    """Fit a linear classifier to each choice of maps by least squares, and score it."""
    weights = _fitted(training, choices)
    outputs = torch.cat([cells.features() @ weights for cells in training]).numpy()
    share = torch.cat([cells.edge for cells in training]).float().mean().item()
    thresholds = torch.from_numpy(np.quantile(outputs, 1 - share, axis=0)).float()

    # For each choice, the rows are the cells that are called edges, the edges between seen classes
    # and the edges of unseen ones. The columns count all of these, and those of them that are edges
    # and are called edges.
    counts = torch.zeros(len(choices), 3, 2, dtype=torch.int64)
    for cells in test:
        called = (cells.features() @ weights > thresholds).T  # (choices, N)
        groups = (called, (cells.edge & ~cells.unseen)[None], (cells.edge & cells.unseen)[None])
        for row, group in enumerate(groups):
            counts[:, row, 0] += group.sum(1)
            counts[:, row, 1] += (called & cells.edge & group).sum(1)
    shares = (100 * counts[..., 1] / counts[..., 0]).tolist()
    return [ProbeScores(*row) for row in shares]


def _fitted(scenes: Sequence[Cells], choices: Sequence[Sequence[str]]) -> Tensor:
    """Return the weights (C + 1, choices), zero for the channels of maps that are not chosen."""
    owners = [name for name, level in scenes[0].maps.items() for _ in range(len(level))]
    width = len(owners) + 1
    square, right = torch.zeros(width, width, dtype=torch.float64), torch.zeros(width).double()
    for cells in scenes:
        features = cells.features()
        square += (features.T @ features).double()
        right += (features.T @ cells.edge.float()).double()
    weights = torch.zeros(width, len(choices))
    for column, names in enumerate(choices):
        chosen = torch.tensor([*(owner in names for owner in owners), True]).nonzero()[:, 0]
        part = square[chosen][:, chosen]
        damping = DAMPING * part.diagonal().mean() * torch.eye(len(chosen), dtype=torch.float64)
        weights[chosen, column] = torch.linalg.solve(part + damping, right[chosen]).float()
    return weights


def choices_of(levels: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the choices of maps to probe: each map alone, then CLIP's two coarsest levels (as if
    it had no finer ones) and all of its levels, both without and with SAM's map."""
    clip = tuple(name for name in levels if name != "sam")
    together = [maps + more for maps in (clip[-2:], clip) for more in ((), ("sam",))]
    return [*((name,) for name in levels), *together]
