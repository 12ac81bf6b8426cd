"""Sentences of the small world: what they say is in the tables."""

import numpy as np

from frozenseg.small_world import sentences
from frozenseg.small_world.grounds import GROUNDS
from frozenseg.small_world.nouns import NOUNS

NAMES = {**NOUNS, **GROUNDS}


def test_traits_are_of_names_that_exist_and_every_name_has_two() -> None:
    assert {name for names in sentences.TRAITS.values() for name in names} <= NAMES.keys()
    for name in NAMES:
        assert sum(name in names for names in sentences.TRAITS.values()) >= 2, name


def test_a_fact_names_something_of_which_it_is_true() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        text = sentences.fact(generator)
        said = [trait for trait in sentences.TRAITS if trait in text]
        true = {name for name in NAMES if any(name in sentences.TRAITS[trait] for trait in said)}
        words = {word for name in true for word in NAMES[name].names}
        assert said and any(word in text for word in words), text
        assert "{" not in text


def test_all_kinds_come_and_every_word_is_in_the_list() -> None:
    generator = np.random.default_rng(1)
    texts = [sentences.sentence(generator) for _ in range(600)]
    known = set(sentences.words())
    for text in texts:
        letters = "".join(c if c.isalpha() else f" {c} " for c in text.lower())
        assert set(letters.split()) <= known, text
    assert any("sharp corners" in text for text in texts)
    assert any("photo of many" in text or "bad photo" in text for text in texts)
    assert any(" and " in text and "photo" in text for text in texts)
    assert len(set(texts)) > 400
