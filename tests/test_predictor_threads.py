"""One predictor, several callers: what is returned is of the vocabulary that was asked for."""

import copy
import pickle
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from frozenseg.build.models import build_model
from frozenseg.build.prediction import build_predictor
from frozenseg.config import load_config
from frozenseg.errors import UserError
from frozenseg.predictor import TEXTS_KEPT, Predictor
from frozenseg.structures import TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary
from tests.conftest import TINY_OPTIONS

OPTIONS = [*TINY_OPTIONS, "SEED", "0"]


class Slow:
    """A text classifier in which another thread comes between, each time."""

    def embed(
        self, vocabulary: Vocabulary, training: Vocabulary, *, plurals: bool
    ) -> TextEmbeddings:
        count = len(vocabulary)
        return TextEmbeddings(
            torch.full((count, 32), float(count)), torch.arange(count), torch.ones(count).bool()
        )


@pytest.fixture
def predictor() -> Predictor:
    return build_predictor(load_config(None, OPTIONS))


def words(count: int) -> Vocabulary:
    return Vocabulary.parse([f"thing {number}" for number in range(count)])


def test_threads_never_get_each_others_vocabulary(predictor: Predictor) -> None:
    predictor.text_classifier = Slow()
    vocabularies = [words(count) for count in range(1, TEXTS_KEPT + 5)]
    wrong: list[int] = []

    def ask(start: int) -> None:
        for turn in range(2000):
            vocabulary = vocabularies[(start + turn * (start + 1)) % len(vocabularies)]
            found = predictor.embed(vocabulary).weight
            if len(found) != len(vocabulary) or float(found[0, 0]) != len(vocabulary):
                wrong.append(len(found))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=ask, args=(start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert len(predictor._texts) <= TEXTS_KEPT


def test_the_last_vocabularies_are_kept(predictor: Predictor) -> None:
    first = predictor.embed(words(1))
    for count in range(2, TEXTS_KEPT + 1):
        predictor.embed(words(count))
    assert predictor.embed(words(1)) is first
    predictor.embed(words(TEXTS_KEPT + 1))
    assert words(2) not in predictor._texts and predictor.embed(words(1)) is first


def test_a_model_in_training_is_given_back_so(predictor: Predictor) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    expected = predictor(pixels, "car; sky").semantic
    predictor.pipeline.model = build_model(load_config(None, OPTIONS)).train()
    assert (predictor(pixels, "car; sky").semantic == expected).mean() > 0.999
    assert predictor.model.training and predictor.model.mask_decoder.training


def test_a_batch_takes_what_a_call_takes(predictor: Predictor) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((50, 60), (40, 90))]
    for image, found in zip(images, predictor.batch(images, ["car", "sky"]), strict=True):
        np.testing.assert_array_equal(found.semantic, predictor(image, "car; sky").semantic)
    assert predictor.batch([], "car") == []


def test_a_closed_predictor_says_so(predictor: Predictor) -> None:
    with predictor:
        pass
    predictor.close()
    with pytest.raises(UserError, match="this predictor is closed; load the model again"):
        predictor(np.zeros((20, 20, 3), np.uint8), "car")


@pytest.mark.parametrize("doubled", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_predictor_is_not_copied(predictor: Predictor, doubled: Callable) -> None:
    with pytest.raises(UserError, match="neither pickled nor copied; threads may share one"):
        doubled(predictor)
