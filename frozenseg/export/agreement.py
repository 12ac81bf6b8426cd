"""Compare an exported graph with the model from which it was made, input by input.

Legend: H x W pixels of the window, Q queries, K classes, S names, D dimension of the joint space.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.errors import UserError
from frozenseg.export.formats import Run
from frozenseg.export.graph import Case
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.resize import MaskResizer
from frozenseg.models.base import SegmentationModel
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.structures import ImageBatch, MaskPredictions, TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary

MANY_CLASSES, MANY_NAMES = 1203, 1500  # LVIS has 1203 classes


@dataclass(frozen=True)
class Limits:
    """The largest differences from the model that an exported file may have.

    classes: largest difference of class probabilities.
    masks: largest difference of mask logits, as a share of the largest absolute logit.
    pixels: smallest share of an image's pixels that must have the same class, 0-1.
    hard_cases: whether the limits also apply to cases that are not usual (`Case.usual`).
    vectors: smallest cosine between the two vectors of a text, from the text tower and its graph.
    """

    classes: float
    masks: float
    pixels: float
    hard_cases: bool
    vectors: float = 0.999


LIMITS = {
    # Only rounding errors, which are not visible.
    "fp32": Limits(classes=1e-3, masks=1e-3, pixels=0.999, hard_cases=True, vectors=0.99999),
    # Lower precision is judged by its visible effect: on usual scenes, at most one pixel in a
    # hundred (fp16) or in twenty (int8) may have another class. Class probabilities and mask
    # logits are not limited, because a single query that finds another object may change its own by
    # any amount.
    "fp16": Limits(classes=math.inf, masks=math.inf, pixels=0.99, hard_cases=False),
    "int8": Limits(classes=math.inf, masks=math.inf, pixels=0.95, hard_cases=False),
}


@dataclass(frozen=True)
class Agreement:
    """How closely a graph agrees with the model in one case.

    name, usual: those of the `Case`. classes, masks, pixels: the measures that `Limits` explains.
    empty: how many of the model's masks have no pixel.
    """

    name: str
    usual: bool
    classes: float
    masks: float
    pixels: float
    empty: int

    def within(self, limits: Limits) -> bool:
        """Whether the agreement satisfies the limits; NaN never does."""
        if math.isnan(self.classes + self.masks):
            return False
        return not (self.usual or limits.hard_cases) or (
            self.classes <= limits.classes
            and self.masks <= limits.masks
            and self.pixels >= limits.pixels
        )

    def __str__(self) -> str:
        return (
            f"{self.name}: classes {self.classes:.1e}, masks {self.masks:.1e}, "
            f"{100 * self.pixels:.2f} % of pixels, {self.empty} empty masks"
        )


def hard_cases(
    scenes: Sequence[Tensor], window: tuple[int, int], words: "Words", *, free_classes: bool
) -> list[Case]:
    """Make the inputs with which a graph is compared with its model.

    They are the scenes, each as large as the window allows; one that is much smaller; an image
    without content, which gives empty masks; and, if the number of classes is free, cases with a
    single class and with as many classes as LVIS.

    scenes: (3, h, w) RGB, 0-255, at least one. words: the classes of the scenes.
    """

    def case(
        name: str, image: Tensor, words: "Words", share: float = 1.0, usual: bool = True
    ) -> Case:
        size = fitting(image.shape[-2:], window, share)
        pixels = torch.zeros(1, 3, *window)
        resized = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)
        pixels[..., : size[0], : size[1]] = resized
        return Case(name, pixels, size, words.text, words.is_thing, usual)

    # The image without content is a gradient. In a uniform image all cells would be equal, and for
    # masks with logits near zero, rounding errors would decide the sign of all of them.
    dim, plain = words.text.weight.shape[1], torch.linspace(96, 160, window[1]).expand(3, *window)
    first = scenes[0]
    cases = [
        *(case(f"scene {number}", scene, words) for number, scene in enumerate(scenes, 1)),
        case("smaller than the window", first, words, 0.45),
        case("without content", plain, words, usual=False),
    ]
    if not free_classes:
        return cases
    return [
        *cases,
        case("one class", first, random_words(1, 1, dim), usual=False),
        case(
            f"{MANY_CLASSES} classes",
            first,
            random_words(MANY_CLASSES, MANY_NAMES, dim),
            usual=False,
        ),
    ]


def in_parts(model: FrozenSeg, case: Case) -> Case:
    """Return a case whose inputs also include SAM's embedding and a few regions."""
    embedding = None
    if model.sam is not None:
        embedding = model.sam.embed(ImageBatch(case.pixels, [case.size]))
    coarse = torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    size = [max(1, length // 4) for length in case.size]
    regions = 4 * F.interpolate(coarse, size=size, mode="bicubic")[0]
    return replace(case, embedding=embedding, regions=regions)


@dataclass(frozen=True)
class Words:
    """Text vectors, with is_thing (K,) bool: which classes are things."""

    text: TextEmbeddings
    is_thing: Tensor

    def vocabulary(self) -> Vocabulary:
        """Return a vocabulary with these things, whose names are numbered."""
        names = tuple((f"class {number}",) for number in range(len(self.is_thing)))
        return Vocabulary(names, tuple(self.is_thing.tolist()))


def random_words(classes: int, names: int, dim: int) -> Words:
    """Make random unit vectors (names, dim); each class has at least one of them."""
    generator = torch.Generator().manual_seed(classes)
    more = torch.randint(classes, (names - classes,), generator=generator)
    vectors = F.normalize(torch.randn(names, dim, generator=generator), dim=-1)
    index = torch.cat((torch.arange(classes), more)).sort().values
    numbers = torch.arange(classes)
    return Words(TextEmbeddings(vectors, index, numbers % 3 == 0), numbers % 2 == 0)


def fitting(size: Sequence[int], window: tuple[int, int], share: float = 1.0) -> tuple[int, int]:
    """Return the (height, width) of an image resized to fit the window, with its aspect ratio kept.

    share: the share of the window to fill along the axis that limits the size, 0-1.
    """
    scale = share * min(window[0] / size[0], window[1] / size[1])
    height, width = (
        min(most, max(1, int(length * scale + 0.5)))
        for length, most in zip(size, window, strict=True)
    )
    return height, width


@torch.no_grad()
def agreement(
    model: SegmentationModel, rules: PostProcessor, run: Run, cases: Sequence[Case]
) -> list[Agreement]:
    """Compare a graph with the model from which it was made, and with the model's post-processing.

    rules: the post-processing. run: runs the graph.
    """
    return [_compared(model, rules, run(case.inputs()), case) for case in cases]


def refuse_unlike(found: Sequence[Agreement], limits: Limits, what: str) -> None:
    """Raise `UserError` if a case exceeds the limits. what: the file, which is then not written."""
    for case in found:
        if not case.within(limits):
            raise UserError(
                f"{what}: differs from the model and is not written ({case}; allowed are "
                f"{limits.classes:g}, {limits.masks:g} and {100 * limits.pixels:g} %)"
            )


def _compared(
    model: SegmentationModel, rules: PostProcessor, outputs: dict[str, np.ndarray], case: Case
) -> Agreement:
    expected = _predicted(model, case)
    masks = torch.from_numpy(outputs["mask_logits"]).float()
    probs, true_probs = _probs(outputs["class_logits"]), expected.class_logits.softmax(-1)
    differences = [probs - true_probs]
    if expected.region_logits is not None:
        regions = _probs(outputs["region_logits"])
        differences.append(regions - expected.region_logits.softmax(-1))
    largest = expected.mask_logits.abs().max().clamp(min=1e-6)
    # The padding is left out: no class leads there, so rounding errors would decide.
    rows, columns = (
        max(1, used * masks.shape[axis] // case.pixels.shape[axis])
        for axis, used in zip((-2, -1), case.size, strict=True)
    )
    cells = (..., slice(rows), slice(columns))
    labels = _labels(probs, masks[cells]), _labels(true_probs, expected.mask_logits[cells])
    return Agreement(
        case.name,
        case.usual,
        classes=max(float(difference.abs().max()) for difference in differences),
        masks=float((masks - expected.mask_logits).abs().max() / largest),
        pixels=min(_same(*labels), *_finished(rules, expected, outputs, case)),
        empty=int((expected.mask_logits <= 0).flatten(2).all(-1).sum()),
    )


def _predicted(model: SegmentationModel, case: Case) -> MaskPredictions:
    images = ImageBatch(case.pixels, [case.size])
    if case.regions is None:
        return model.predict(images, case.text)
    assert isinstance(model, FrozenSeg), "only FrozenSeg takes regions"
    return model.predict(images, case.text, regions=[case.regions], image_embedding=case.embedding)


def _probs(logits: np.ndarray) -> Tensor:
    return torch.from_numpy(logits).float().softmax(-1)


def _finished(
    rules: PostProcessor, expected: MaskPredictions, outputs: dict[str, np.ndarray], case: Case
) -> list[float]:
    """Return how far each finished result agrees with that of `rules`, 0-1; 1 if there is none."""
    masks = expected.mask_logits
    resizer = MaskResizer(
        mask_size=(masks.shape[-2], masks.shape[-1]),
        padded_size=(case.pixels.shape[-2], case.pixels.shape[-1]),
        image_size=case.size,
        output_size=case.size,
        cells_inside=rules.cells_inside,
    )
    words = Words(case.text, case.is_thing).vocabulary()
    truth = rules(expected.class_logits[0], masks[0], resizer, words)
    shares = [1.0]
    if "semantic_ids" in outputs and truth.semantic is not None:
        shares.append(_same(_cropped(outputs["semantic_ids"], case), truth.semantic))
    if "panoptic_ids" in outputs and truth.panoptic is not None:
        table = np.concatenate(([-1], outputs["segment_classes"]))
        ids = _cropped(outputs["panoptic_ids"], case)
        shares.append(_same(table[ids], truth.panoptic.class_map()))
    if "instance_masks" in outputs and truth.instances is not None:
        shares.append(_same_instances(outputs, truth.instances.scores))
    return shares


def _labels(class_probs: Tensor, mask_logits: Tensor) -> np.ndarray:
    """Return the best class of each cell, flattened row by row."""
    scores = class_probs[0, :, :-1].T @ mask_logits[0].sigmoid().flatten(1)
    return scores.argmax(0).numpy()


def _cropped(pixels: np.ndarray, case: Case) -> np.ndarray:
    return pixels[: case.size[0], : case.size[1]]


def _same(first: np.ndarray, second: np.ndarray) -> float:
    return float((first == second).mean())


def _same_instances(outputs: dict[str, np.ndarray], scores: np.ndarray) -> float:
    """Return 1 minus the largest difference between the instance scores, sorted in both results."""
    found = np.zeros_like(outputs["instance_scores"])
    found[: len(scores)] = scores
    return 1 - float(np.abs(outputs["instance_scores"] - found).max(initial=0))
