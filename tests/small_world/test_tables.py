"""Every row of the tables of nouns, grounds, colours and patterns can be used."""

from collections import Counter

import numpy as np
import pytest

from frozenseg.small_world.captions import PATTERN_WORDS, attribute_vocabulary
from frozenseg.small_world.coats import COLOURS, PATTERNS, paint_coat, vary
from frozenseg.small_world.grounds import FLOOR, GROUNDS, LAND, RIDGE, TOP, WALL
from frozenseg.small_world.nouns import COAT, NOUNS, Noun, Part
from frozenseg.small_world.plane import Plane, union
from frozenseg.small_world.scene import SceneOptions, make_scene
from frozenseg.small_world.vocabulary import world_vocabulary

SIDE = 96


def drawn(name: str) -> tuple[list[Part], np.ndarray, np.ndarray]:
    """Return a noun's parts, silhouette and the radius of every pixel, on a square of +-1.5."""
    y, x = np.mgrid[-1.5 : 1.5 : SIDE * 1j, -1.5 : 1.5 : SIDE * 1j].astype(np.float32)
    parts = NOUNS[name].parts(Plane(x, y))
    return parts, union(*(part.field for part in parts)) < 0, np.hypot(x, y)


def test_the_world_is_as_large_as_promised() -> None:
    assert len(NOUNS) >= 14 and len(GROUNDS) >= 9
    assert len(COLOURS) == 8 and len(PATTERNS) == 4 and set(PATTERN_WORDS) == set(PATTERNS)
    for table in (NOUNS, GROUNDS):
        share = np.mean([row.seen for row in table.values()])
        assert 0.6 < share < 0.75  # about two thirds are annotated in training


def test_no_word_belongs_to_two_classes() -> None:
    words = [word for table in (NOUNS, GROUNDS) for row in table.values() for word in row.names]
    assert not [word for word, count in Counter(words).items() if count > 1]
    assert not set(words) & (set(COLOURS) | {w for ws in PATTERN_WORDS.values() for w in ws})


@pytest.mark.parametrize("name", NOUNS)
def test_a_noun_fills_its_disc_and_shows_its_coat(name: str) -> None:
    parts, silhouette, radius = drawn(name)
    assert radius[silhouette].max() < 1.25  # `things.REACH` counts on it
    assert 0.8 < radius[silhouette].max()
    assert silhouette.sum() * (3 / SIDE) ** 2 > 0.45  # of the 3.14 of the disc: not a thread
    coat = np.zeros_like(silhouette)
    for part in parts:  # later parts cover earlier ones
        coat = np.where(part.field < 0, part.paint == COAT, coat)
    assert coat[silhouette].mean() > 0.25  # otherwise its colour would be hard to see


def test_no_two_nouns_have_the_same_shape() -> None:
    silhouettes = np.stack([drawn(name)[1].ravel() for name in NOUNS]).astype(np.float32)
    common = silhouettes @ silhouettes.T
    areas = silhouettes.sum(axis=1)
    overlap = common / (areas[:, None] + areas - common)
    np.fill_diagonal(overlap, 0)
    assert overlap.max() < 0.85


@pytest.mark.parametrize("name", GROUNDS)
def test_a_ground_is_a_texture_of_any_size(name: str) -> None:
    ground = GROUNDS[name]
    assert set(ground.places) <= {TOP, RIDGE, LAND, WALL, FLOOR} and ground.places
    for height, width in ((40, 256), (256, 31)):
        texture = ground.texture(np.random.default_rng(0), height, width)
        assert texture.shape == (height, width, 3)
        assert texture.min() > -0.05 and texture.max() < 1.2
        assert texture.std() > 0.01


def test_grounds_look_different() -> None:
    """Mean colour and roughness are enough to recognise the ground of a texture of another seed."""

    def look(name: str, seed: int) -> np.ndarray:
        texture = GROUNDS[name].texture(np.random.default_rng(seed), 96, 96)
        grey = texture.mean(axis=2)
        rough = [np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1)]
        return np.array([*texture.mean(axis=(0, 1)), *texture.std(axis=(0, 1)), *rough])

    known = np.stack([np.mean([look(name, seed) for seed in range(4)], axis=0) for name in GROUNDS])
    found = [int(np.abs(known - look(name, 9)).sum(axis=1).argmin()) for name in GROUNDS]
    assert found == list(range(len(GROUNDS)))


def test_shades_of_a_colour_stay_nearest_to_it() -> None:
    table = np.array(list(COLOURS.values()))
    generator = np.random.default_rng(0)
    for place, colour in enumerate(COLOURS):
        for _ in range(50):
            assert np.abs(table - vary(colour, generator)).sum(axis=1).argmin() == place


@pytest.mark.parametrize("pattern", [name for name in PATTERNS if name != "plain"])
def test_a_pattern_repeats_and_shows_both_tones(pattern: str) -> None:
    y, x = np.mgrid[0:120, 0:120].astype(np.float32)
    coat = paint_coat(np.array([0.8, 0.1, 0.1], np.float32), pattern, x, y, period=12.0)
    second = np.abs(coat - [0.8, 0.1, 0.1]).max(axis=2) > 0.3
    assert 0.15 < second.mean() < 0.6
    assert not np.array_equal(second[:60], second[:60, ::-1]) or pattern != "striped"


def test_a_new_noun_needs_a_function_and_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def pill(p: Plane) -> list[Part]:
        return [Part(p.bar((-0.6, 0), (0.6, 0), 0.4), COAT)]

    monkeypatch.setitem(NOUNS, "pill", Noun(("pill", "tablet"), pill, tilt=90, seen=False))
    assert ("pill", "tablet") in world_vocabulary().names
    assert ("pill", "tablet") not in world_vocabulary(seen_only=True).names
    assert "dotted blue pill" in attribute_vocabulary().spellings
    options = SceneOptions(sides=(64, 112))
    scenes = [make_scene(0, "train", index, options) for index in range(60)]
    assert any(region.name == "pill" for scene in scenes for region in scene.regions)
