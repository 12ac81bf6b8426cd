"""Scenes: exact ground truth against slow, obvious rules; reproducible; true to the options."""

import numpy as np
import pytest

from frozenseg.small_world.coats import COLOURS
from frozenseg.small_world.grounds import GROUNDS
from frozenseg.small_world.nouns import NOUNS
from frozenseg.small_world.scene import STREAMS, SceneOptions, make_scene
from frozenseg.small_world.things import Thing, draw_thing

SMALL = SceneOptions(sides=(80, 130))


def thing(name: str, centre: tuple[float, float], radius: float, turn: float = 0.0) -> Thing:
    red = np.array(COLOURS["red"], np.float32)
    return Thing(name, "red", "plain", red, centre, radius, turn, False, 1.0, 10.0)


def test_a_pixel_belongs_to_the_topmost_thing_at_its_centre() -> None:
    height, width = 60, 70
    things = [thing("circle", (25.3, 20.1), 17.2), thing("square", (33.0, 35.6), 18.0, 0.3)]
    owner = np.zeros((height, width), np.int32)
    image = np.zeros((height, width, 3), np.float32)
    for number, each in enumerate(things, 1):
        draw_thing(image, owner, each, number, light=1.0)
    slow = np.zeros((height, width), np.int32)
    for y in range(height):
        for x in range(width):
            down, right = y + 0.5 - 25.3, x + 0.5 - 20.1
            if down**2 + right**2 <= (0.88 * 17.2) ** 2:
                slow[y, x] = 1
            down, right = y + 0.5 - 33.0, x + 0.5 - 35.6
            u = right * np.cos(0.3) + down * np.sin(0.3)
            v = down * np.cos(0.3) - right * np.sin(0.3)
            if max(abs(u), abs(v)) <= 0.75 * 18.0:
                slow[y, x] = 2
    np.testing.assert_array_equal(owner, slow)
    assert things[0].area == sum(
        (y + 0.5 - 25.3) ** 2 + (x + 0.5 - 20.1) ** 2 <= (0.88 * 17.2) ** 2
        for y in range(height)
        for x in range(width)
    )


@pytest.mark.parametrize("name", NOUNS)
def test_a_things_window_loses_nothing_of_it(name: str) -> None:
    """A thing near a corner, where its window is cut, looks as in the middle of a larger image."""
    wide, small = np.zeros((90, 90), np.int32), np.zeros((50, 45), np.int32)
    draw_thing(
        np.zeros((90, 90, 3), np.float32), wide, thing(name, (35.2, 34.7), 15.0, 0.4), 1, 2.0
    )
    draw_thing(np.zeros((50, 45, 3), np.float32), small, thing(name, (5.2, 4.7), 15.0, 0.4), 1, 2.0)
    np.testing.assert_array_equal(small, wide[30:80, 30:75])


def test_a_scene_depends_on_seed_stream_and_index_alone() -> None:
    first = make_scene(1, "val", 5, SMALL)
    for other in ((1, "val", 6), (2, "val", 5), (1, "train", 5)):
        make_scene(*other, SMALL)
    again = make_scene(1, "val", 5, SMALL)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.ids, again.ids)
    assert first.regions == again.regions
    pictures = {make_scene(1, stream, 5, SMALL).image.tobytes() for stream in STREAMS}
    assert len(pictures) == len(STREAMS)


def test_every_pixel_and_every_region_is_accounted_for() -> None:
    sizes, names, most_grounds, overlaps = set(), set(), 0, 0
    for index in range(60):
        scene = make_scene(0, "val", index)
        height, width = scene.ids.shape
        assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
        assert 128 <= min(height, width) and max(height, width) <= 256
        assert abs(height - width) >= 16
        found, areas = np.unique(scene.ids, return_counts=True)
        assert found.tolist() == [region.id for region in scene.regions]
        assert found.tolist() == list(range(1, len(found) + 1))
        assert scene.masks().sum(axis=(1, 2)).tolist() == areas.tolist()
        grounds = [region.name for region in scene.grounds]
        assert len(set(grounds)) == len(grounds)  # one segment per stuff class
        most_grounds = max(most_grounds, len(grounds))
        assert len(scene.things) <= 6
        sizes.add((height, width))
        names.update(region.name for region in scene.regions)
        overlaps += _touching(scene.ids, len(grounds))
    assert len(sizes) > 50 and most_grounds == 3
    assert names == set(NOUNS) | set(GROUNDS)
    assert overlaps > 20  # things hide parts of one another


def _touching(ids: np.ndarray, num_grounds: int) -> bool:
    left, right = ids[:, :-1], ids[:, 1:]
    return bool(((left != right) & (left > num_grounds) & (right > num_grounds)).any())


def test_the_truth_lies_where_the_picture_shows_it() -> None:
    """Inside the mask of a plain thing, the commonest colour is that of the thing."""
    table = np.array(list(COLOURS.values())) * 255
    right, asked = 0, 0
    options = SceneOptions(sides=(100, 160), counts=(1, 2), radii=(0.25, 0.3))
    for index in range(80):
        scene = make_scene(3, "val", index, options)
        for region in scene.things:
            if region.pattern != "plain":
                continue
            pixels = scene.image[scene.ids == region.id].astype(float)
            nearest = np.abs(pixels[:, None] - table).sum(axis=2).argmin(axis=1)
            # in most nouns, parts of fixed colours and the trim cover fewer pixels
            commonest = np.bincount(nearest, minlength=len(table)).argmax()
            right += int(commonest == list(COLOURS).index(region.colour))
            asked += 1
    assert asked > 30
    assert right / asked > 0.8


def test_grounds_alone_and_single_things_can_be_asked_for() -> None:
    bare = SceneOptions(sides=(80, 130), counts=(0, 0))
    single = SceneOptions(sides=(80, 130), counts=(1, 1), radii=(0.3, 0.4))
    assert all(not make_scene(0, "clip", index, bare).things for index in range(10))
    assert all(len(make_scene(0, "clip", index, single).things) == 1 for index in range(20))


def test_a_range_of_sides_that_leaves_only_squares_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 48 pixels apart"):
        SceneOptions(sides=(128, 140))


def test_unseen_words_come_as_often_as_asked() -> None:
    def share(weight: float) -> float:
        options = SceneOptions(sides=(64, 112), unseen_weight=weight)
        scenes = [make_scene(0, "train", index, options) for index in range(80)]
        regions = [region for scene in scenes for region in scene.regions]
        tables = {**NOUNS, **GROUNDS}
        return sum(not tables[region.name].seen for region in regions) / len(regions)

    assert share(0.0) < 0.03  # in some places nothing but unseen grounds fits
    assert 0.02 < share(0.25) < 0.2 < share(1.0) < 0.5
