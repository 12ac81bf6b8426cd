"""The graph's functions of tensors beside the model and its post-processing, both in PyTorch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from frozenseg.build.models import build_model
from frozenseg.config import load_config
from frozenseg.errors import UserError
from frozenseg.export.agreement import (
    LIMITS,
    Agreement,
    Words,
    agreement,
    fitting,
    hard_cases,
    in_parts,
    random_words,
    refuse_unlike,
)
from frozenseg.export.graph import Case, names_of_outputs, write_onnx
from frozenseg.export.network import Network, shrinking
from frozenseg.export.results import Results
from frozenseg.inference.duplicates import duplicates, uncovered
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.models.base import SegmentationModel
from tests.conftest import FC_CLIP_OPTIONS, build_tiny

WINDOW = (64, 96)
ALL = ("panoptic", "semantic", "instances")
RULES = PostProcessor(overlap_threshold=0.3)
UNSEEN_OPTIONS = (
    *("MODEL.FROZEN_SEG.POOLING", "adapter", "MODEL.FROZEN_SEG.MASK_ADAPTER.NUM_CHANNELS", "8"),
    *("MODEL.FROZEN_SEG.VOID_FACTOR", "0.5", "MODEL.FROZEN_SEG.VOID_TO_UNSEEN", "0.5"),
)


def tiny_fusioner(classes_at_once: int = 0) -> SegmentationModel:
    options = ["MODEL.DEVICE", "cpu", "MODEL.FUSIONER.CLASSES_AT_ONCE", str(classes_at_once)]
    return build_model(load_config("small-fusioner", options)).eval()


def cases(dim: int, *, free: bool = True) -> list[Case]:
    scenes = [torch.rand(3, 50, 90) * 255, torch.rand(3, 64, 96) * 255]
    return hard_cases(scenes, WINDOW, random_words(5, 8, dim), free_classes=free)


def compared(model: SegmentationModel, rules: PostProcessor, chosen: list[Case]) -> list[Agreement]:
    wanted = [name for name in ALL if getattr(rules, name)]
    results = Results(Network(model), rules, wanted)

    @torch.no_grad()
    def run(inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        found = (tensor.numpy() for tensor in results(**inputs))
        names = names_of_outputs(wanted, regions="regions" in inputs)
        return dict(zip(names, found, strict=True))

    return agreement(model, rules, run, chosen)


@pytest.mark.parametrize(
    "options",
    [
        ["MODEL.FROZEN_SEG.SAM_VIEW", "keep_aspect", "MODEL.FROZEN_SEG.SAM_ENCODER_LEVELS", "1"],
        ["MODEL.FROZEN_SEG.SAM_VIEW", "stretch"],
        FC_CLIP_OPTIONS,
        [*FC_CLIP_OPTIONS, *UNSEEN_OPTIONS],
    ],
    ids=["keep_aspect", "stretch", "FC-CLIP", "unseen"],
)
def test_the_function_equals_the_model_and_its_post_processing(options: list[str]) -> None:
    found = compared(build_tiny(*options), RULES, cases(32))
    assert len(found) == 6
    for case in found:
        assert case.within(LIMITS["fp32"]), str(case)
        assert case.pixels > 1 - 1e-6 or not case.usual


@pytest.mark.parametrize("view", ["keep_aspect", "stretch"])
@pytest.mark.parametrize("options", [(), UNSEEN_OPTIONS])
def test_regions_are_classified_and_an_embedding_may_be_given(view: str, options: tuple) -> None:
    model = build_tiny("MODEL.FROZEN_SEG.SAM_VIEW", view, *options)
    chosen = [in_parts(model, case) for case in cases(32)[:3]]
    for case, found in zip(chosen, compared(model, RULES, chosen), strict=True):
        assert case.regions is not None and case.embedding is not None
        assert found.within(LIMITS["fp32"]), str(found)


def test_empty_masks_are_no_exception() -> None:
    model = build_tiny()
    with torch.no_grad():  # every mask logit is far below zero
        model.mask_decoder.mask_embedding.layers[-1].bias.add_(10)
        model.pixel_decoder.mask_features.bias.sub_(10)
    (scene, *_) = cases(32)
    (found,) = compared(model, RULES, [scene])
    assert found.empty == 10
    assert found.within(LIMITS["fp32"]) and found.pixels > 1 - 1e-6


def test_duplicates_are_left_out() -> None:
    """Nearly all masks are about the same, where an IoU of 0.02 is enough."""
    model, rules = build_tiny(), replace(RULES, duplicate_iou=0.02)
    for case in compared(model, rules, cases(32)):
        assert case.within(LIMITS["fp32"]), str(case)
        assert case.pixels > 1 - 1e-6 or not case.usual
    scores = []
    for chosen in (RULES, rules):
        with torch.no_grad():
            found = Results(Network(model), chosen, ["instances"])(**cases(32)[0].inputs())
        scores.append(found[-1])
    assert 0 < (scores[1] > 0).sum() < (scores[0] > 0).sum()


@pytest.mark.parametrize("share", [0.02, 0.9])
def test_covered_masks_are_left_out(share: float) -> None:
    rules = replace(RULES, covered_share=share)
    for case in compared(build_tiny(), rules, cases(32)):
        assert case.within(LIMITS["fp32"]), str(case)
        assert case.pixels > 1 - 1e-6 or not case.usual


class Choices(torch.nn.Module):
    """Both ways to leave out queries, without the model around them."""

    def forward(
        self, labels: torch.Tensor, scores: torch.Tensor, pairs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return duplicates(labels, scores, pairs), uncovered(scores, pairs)


def test_the_choices_between_queries_become_a_graph(tmp_path: Path) -> None:
    """The tests of whole exports are slow; this one finds an operation that ONNX lacks."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'frozenseg[onnx]'")
    pytest.importorskip("onnxscript", reason="pip install 'frozenseg[onnx]'")
    labels, scores = torch.randint(3, (12,)), torch.rand(12)
    scores[5] = scores[4]
    inputs = {"labels": labels, "scores": scores, "pairs": torch.rand(12, 12) < 0.3}
    program = torch.export.export(Choices(), tuple(inputs.values()))
    write_onnx(program, tmp_path / "choices.onnx", ["duplicates", "uncovered"], {})
    session = onnxruntime.InferenceSession(tmp_path / "choices.onnx")
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    wanted = Choices()(*inputs.values())
    assert all(np.array_equal(one, two.numpy()) for one, two in zip(found, wanted, strict=True))
    assert all(0 < one.sum() < 12 for one in found)


def test_cells_inside_are_chosen_by_the_size_of_the_image(tiny_model: SegmentationModel) -> None:
    small = [case for case in cases(32) if case.name == "smaller than the window"]
    (found,) = compared(tiny_model, replace(RULES, cells_inside=True), small)
    assert found.pixels > 1 - 1e-6


@pytest.mark.parametrize("at_once", [0, 4])
def test_fusioner_with_a_few_classes_at_once_has_as_many_as_were_traced(at_once: int) -> None:
    model = tiny_fusioner(at_once)
    free = Network(model).free_classes
    assert free == (at_once == 0)
    rules = replace(RULES, panoptic=False, instances=False)
    for case in compared(model, rules, cases(128, free=free)):
        assert case.within(LIMITS["fp32"]), str(case)


def test_a_model_with_windows_of_its_own_is_refused() -> None:
    options = ["MODEL.FUSIONER.WINDOW", "64", "MODEL.FUSIONER.WINDOW_STRIDE", "32"]
    model = build_model(load_config("small-fusioner", options))
    with pytest.raises(UserError, match="slides"):
        Network(model)


@pytest.mark.parametrize(("used", "size"), [(40, 64), (64, 25), (64, 64), (7, 3)])
def test_the_matrix_resizes_as_pytorch_does(used: int, size: int) -> None:
    image = torch.rand(1, 1, 64, 5)
    matrix = shrinking(64, 70, torch.tensor(used), torch.tensor(float(size)))
    expected = F.interpolate(
        image[:, :, :used], size=(size, 5), mode="bilinear", align_corners=False, antialias=True
    )
    torch.testing.assert_close((matrix @ image)[:, :, :size], expected)


def test_an_image_fills_the_window_along_one_axis() -> None:
    assert fitting((480, 640), (192, 256)) == (192, 256)
    assert fitting((640, 480), (192, 256)) == (192, 144)
    assert fitting((1, 5000), (192, 256)) == (1, 256)


@pytest.mark.parametrize("classes", [float("nan"), 0.1])
def test_a_graph_that_differs_is_refused(classes: float) -> None:
    good = Agreement("scene 1", usual=True, classes=0.0, masks=0.0, pixels=1.0, empty=0)
    refuse_unlike([good], LIMITS["fp32"], "model.onnx")
    with pytest.raises(UserError, match="not written"):
        refuse_unlike([good, replace(good, classes=classes)], LIMITS["fp32"], "model.onnx")


def test_coarse_numbers_are_judged_by_the_pixels_of_usual_scenes() -> None:
    coarse = Agreement("scene 1", usual=True, classes=0.9, masks=0.5, pixels=0.96, empty=0)
    hard = replace(coarse, usual=False, pixels=0.1)
    assert coarse.within(LIMITS["int8"]) and not coarse.within(LIMITS["fp16"])
    assert hard.within(LIMITS["int8"]) and not replace(hard, masks=0.0).within(LIMITS["fp32"])
    assert not replace(hard, classes=float("nan")).within(LIMITS["int8"])


def test_each_class_of_random_words_has_a_name() -> None:
    words = random_words(7, 20, 8)
    assert words.text.class_index.unique().tolist() == list(range(7))
    assert isinstance(words, Words) and len(words.vocabulary()) == 7
