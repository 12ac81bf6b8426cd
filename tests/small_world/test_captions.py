"""Captions say what is there, in few enough tokens, and never a held-out combination."""

import numpy as np
import open_clip
import pytest

from frozenseg.small_world.captions import (
    PATTERN_WORDS,
    attribute_vocabulary,
    caption,
    is_held_out,
    plural,
)
from frozenseg.small_world.coats import COLOURS, PATTERNS
from frozenseg.small_world.grounds import GROUNDS
from frozenseg.small_world.nouns import NOUNS
from frozenseg.small_world.scene import Region, Scene, SceneOptions, make_scene


def scene_of(regions: list[Region]) -> Scene:
    return Scene(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), np.int32), regions)


@pytest.fixture(scope="module")
def captions() -> list[tuple[Scene, str]]:
    generator = np.random.default_rng(0)
    scenes = [make_scene(0, "clip", i, SceneOptions(sides=(64, 112))) for i in range(60)]
    return [(scene, caption(scene, generator)) for scene in scenes for _ in range(30)]


def words_of(text: str) -> str:
    return f" {text.replace(',', ' ').replace('.', ' ')} ".replace("  ", " ")


def test_captions_vary_and_fit_the_text_tower(captions: list[tuple[Scene, str]]) -> None:
    tokenizer = open_clip.SimpleTokenizer(context_length=24)
    texts = {text for _, text in captions}
    assert len(texts) > 0.8 * len(captions)
    assert max(len(tokenizer.encode(text)) for text in texts) + 2 <= 24


def test_captions_name_nothing_that_is_not_there(captions: list[tuple[Scene, str]]) -> None:
    table = {**NOUNS, **GROUNDS}
    for scene, text in captions:
        present = {region.name for region in scene.regions}
        for name, row in table.items():
            for word in row.names:
                for form in (word, plural(word)):
                    if f" {form} " in words_of(text) and name not in present:
                        raise AssertionError(f"{text!r} names {word!r}, scene holds {present}")
        for colour in COLOURS:
            if f" {colour} " in words_of(text):
                assert colour in {thing.colour for thing in scene.things}


def test_every_word_is_used() -> None:
    generator = np.random.default_rng(1)
    rows = [(name, row.names, True) for name, row in NOUNS.items()]
    rows += [(name, row.names, False) for name, row in GROUNDS.items()]
    for name, words, is_thing in rows:
        region = Region(1, name, is_thing, "red" * is_thing, "plain" * is_thing)
        said = "".join(words_of(caption(scene_of([region]), generator)) for _ in range(60))
        assert all(f" {word} " in said for word in words), name


def test_held_out_combinations_are_never_said_in_full() -> None:
    generator = np.random.default_rng(2)
    said = {True: 0, False: 0}
    for noun in list(NOUNS)[::3]:
        for colour in COLOURS:
            for pattern in PATTERNS:
                scene = scene_of([Region(1, noun, True, colour, pattern)])
                for _ in range(30):
                    text = words_of(caption(scene, generator))
                    said_pattern = any(f" {word} " in text for word in PATTERN_WORDS[pattern])
                    full = f" {colour} " in text and said_pattern
                    said[is_held_out(noun, colour, pattern)] += full
    assert said[True] == 0
    assert said[False] > 600


def test_parts_of_held_out_combinations_are_said_with_others() -> None:
    combinations = [(n, c, p) for n in NOUNS for c in COLOURS for p in PATTERNS]
    kept = [combination for combination in combinations if not is_held_out(*combination)]
    assert 0.1 < 1 - len(kept) / len(combinations) < 0.2
    for first, second in ((0, 1), (0, 2), (1, 2)):
        pairs = {(combination[first], combination[second]) for combination in combinations}
        assert {(combination[first], combination[second]) for combination in kept} == pairs


def test_the_attribute_vocabulary_splits_into_said_and_held_out() -> None:
    both = attribute_vocabulary()
    said, held_out = attribute_vocabulary(held_out=False), attribute_vocabulary(held_out=True)
    assert len(both) == len(NOUNS) * 32 == len(said) + len(held_out)
    assert said.spellings | held_out.spellings == both.spellings
    assert not said.spellings & held_out.spellings
    assert "striped red star" in both.spellings


def test_things_are_counted_and_articles_fit() -> None:
    generator = np.random.default_rng(3)
    stars = [Region(i, "star", True, "red", "plain") for i in (1, 2, 3)]
    texts = [caption(scene_of(stars), generator) for _ in range(60)]
    assert any("three stars" in text for text in texts)
    umbrella = scene_of([Region(1, "umbrella", True, "orange", "plain")])
    texts = [caption(umbrella, generator) for _ in range(60)]
    assert not [text for text in texts if " a umbrella" in f" {text}" or " a orange" in f" {text}"]
    assert [plural(word) for word in ("box", "leaf", "butterfly", "fish", "key", "cross")] == [
        "boxes",
        "leaves",
        "butterflies",
        "fish",
        "keys",
        "crosses",
    ]


def test_no_thing_is_said_alone_and_counted_too() -> None:
    generator = np.random.default_rng(4)
    stars = scene_of([Region(i, "star", True, c, "plain") for i, c in ((1, "red"), (2, "blue"))])
    texts = [caption(stars, generator) for _ in range(200)]
    assert not [text for text in texts if "two" in text and " and " in text]
    assert any("two stars" in text for text in texts) and any(" and " in text for text in texts)
