"""An image that the memory does not hold is one error, and the others are done."""

import weakref

import numpy as np
import pytest
import torch

from frozenseg.build.prediction import build_predictor
from frozenseg.config import load_config
from frozenseg.errors import UserError
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.resize import MaskResizer
from frozenseg.inference.segment import Pipeline
from frozenseg.runtime import memory
from frozenseg.runtime.memory import out_of_memory_named, require_memory
from frozenseg.text.vocabulary import Vocabulary
from tests.conftest import TINY_OPTIONS

CPU = torch.device("cpu")


def test_what_is_free_suffices_and_more_does_not() -> None:
    free = memory.free_memory()
    if free is None:
        pytest.skip("the system does not say how much memory is free")
    require_memory(memory.SMALL, CPU, "masks")
    with pytest.raises(UserError, match=r"masks need \d+\.\d GB .*, and \d+\.\d GB are free"):
        require_memory(100 * free, CPU, "masks")
    require_memory(100 * free, torch.device("meta"), "masks")


def test_errors_of_allocators_are_named_and_hold_nothing() -> None:
    def allocate() -> None:
        held = np.zeros(9)
        held_by.append(weakref.ref(held))
        torch.empty(2**60)

    held_by: list[weakref.ref] = []
    try:
        with out_of_memory_named("its masks"):
            allocate()
    except UserError as error:
        kept = error.with_traceback(None)
    assert "its masks need more memory than there is" in str(kept)
    assert held_by[0]() is None
    with pytest.raises(UserError, match="more memory"), out_of_memory_named("x"):
        raise MemoryError
    with pytest.raises(UserError, match="more memory"), out_of_memory_named("x"):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_named("x"):
        torch.zeros(3).view(2)


def test_one_image_without_memory_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """For pictures of 50 rows there is none."""
    whole = Pipeline._in_steps

    def in_steps(self, output, index, vocabulary):
        if output.requests[index].output_size[0] == 50:
            torch.empty(2**60)
        yield from whole(self, output, index, vocabulary)

    monkeypatch.setattr(Pipeline, "_in_steps", in_steps)
    segmenter = build_predictor(load_config(None, TINY_OPTIONS))
    images = [np.zeros((rows, 40, 3), np.uint8) for rows in (40, 50, 60, 40)]
    results = list(segmenter.stream(images, ["car"]))
    assert [isinstance(found, UserError) for found in results] == [False, True, False, False]
    assert "the masks of 50 x 40 pixels need more memory" in str(results[1])
    with pytest.raises(UserError, match="50 x 40"):
        segmenter(images[1], ["car"])


def test_masks_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    segmenter = build_predictor(load_config(None, TINY_OPTIONS))
    with pytest.raises(UserError, match="the masks of 40 x 40 pixels need 0.0 GB"):
        segmenter(np.zeros((40, 40, 3), np.uint8), ["car"])


def test_scores_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SMALL", 0)
    size, vocabulary = (10, 20), Vocabulary.parse(["car", "road", "sky"])
    given = (torch.zeros(2, 4), torch.zeros(2, 10, 20), MaskResizer.identity(size), vocabulary)
    make = PostProcessor(
        panoptic=False, semantic=False, instances=False, semantic_scores=True
    )  # 3 x 10 x 20 scores of 4 bytes
    monkeypatch.setattr(memory, "free_memory", lambda: 2399)
    with pytest.raises(UserError, match="the scores of 3 classes at 10 x 20 pixels need 0.0 GB"):
        make(*given)
    monkeypatch.setattr(memory, "free_memory", lambda: 2400)
    assert make(*given).semantic_scores is not None
