"""A class list and an annotation: joined by what both say, or refused with the first pair."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frozenseg.errors import UserError
from frozenseg.text.joining import join, join_by_order
from frozenseg.text.vocabulary import Vocabulary

NAMES, IDS = ("sky", "Brick Wall", "traffic_light", "car"), (3, 5, 8, 9)


def listed(*groups: str, ids: tuple[int, ...] | None = None) -> Vocabulary:
    words = Vocabulary.parse(list(groups))
    return Vocabulary(words.names, words.is_thing, "words.txt", ids)


def labels(vocabulary: Vocabulary) -> list[str]:
    return join(vocabulary, NAMES, IDS, "a.json").labels


def test_in_order_and_with_other_names_among_them(caplog: pytest.LogCaptureFixture) -> None:
    words = listed("clouds, sky", "brick-wall", "light", "automobile, car")
    assert labels(words) == ["clouds", "brick-wall", "light", "automobile"]
    assert caplog.messages == []  # a shared word is enough
    words = listed("clouds, sky", "brick-wall", "lamp", "automobile, car")
    assert labels(words) == ["clouds", "brick-wall", "lamp", "automobile"]
    assert "1 of 4 class names of words.txt differ from those of a.json" in caplog.text
    assert "'traffic_light' is queried as 'lamp'" in caplog.text


def test_any_order_and_more_classes_than_the_annotation_has() -> None:
    words = listed("car", "brick wall", "zebra", "sky, clouds", "traffic light")
    assert labels(words) == ["sky", "brick wall", "traffic light", "car"]
    assert labels(words.select([4, 3, 1, 0])) == ["sky", "brick wall", "traffic light", "car"]


def test_by_ids_whatever_their_order_and_language() -> None:
    words = listed("Himmel", "Mauer", "Ampel", "Auto", ids=IDS)
    assert labels(words) == ["Himmel", "Mauer", "Ampel", "Auto"]
    words = listed("sky", "brick wall", "traffic light", "car", ids=(1, 2, 3, 4))
    assert labels(words) == ["sky", "brick wall", "traffic light", "car"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            listed("brick wall", "sky", "traffic light", "car", ids=IDS),
            "a.json names category 3 'sky', but words.txt has 3:brick wall; correct the numbers",
        ),
        (
            listed("Himmel", "Mauer", "Ampel", "Auto"),
            "4 of 4 class names in a.json differ from those of words.txt; the first is 'sky' in "
            "place of 'Himmel'; .*3:Himmel",
        ),
        (
            listed("brick wall", "sky", "lamp", "car"),
            "a.json: its annotations have 4 classes, but the vocabulary has 4 .* category 8, "
            "'traffic_light', has no class of its own in the list",
        ),
        (
            listed("sky", "car"),
            "have 4 classes, but the vocabulary has 2 .* category 5, 'Brick Wall'",
        ),
        (
            listed("brick wall, sky", "traffic light", "car", "x"),
            "'sky' and 'Brick Wall' are one class in the list, 'brick wall'",
        ),
    ],
)
def test_what_is_refused(words: Vocabulary, message: str) -> None:
    with pytest.raises(UserError, match=message):
        labels(words)


def test_names_of_the_annotation_with_synonyms_between_commas() -> None:
    words = listed("lorry, truck", "road")
    assert join(words, ("road, route", "truck, van"), (1, 2), "a").labels == ["road", "lorry"]


def test_two_classes_of_one_name_keep_their_places() -> None:
    words = Vocabulary((("door",), ("door", "double door"), ("bat",), ("bat",)), (True,) * 4)
    assert join(words, words.labels, range(4), "a") == words


def test_by_order_the_names_say_nothing() -> None:
    words = listed("car", "sky", "zebra", "road")
    assert join_by_order(words, NAMES, IDS, "a").labels == words.labels
    numbered = listed("a", "b", "c", "d", ids=(3, 5, 8, 9))
    assert join_by_order(numbered, NAMES[::-1], IDS[::-1], "a").labels == ["d", "c", "b", "a"]
    with pytest.raises(UserError, match="have 4 classes, but the vocabulary has 1"):
        join_by_order(listed("car"), NAMES, IDS, "a.json")


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.permutations(range(8)), st.data())
def test_every_category_gets_the_class_of_its_name(order: list[int], data: st.DataObject) -> None:
    """Whatever the order of the list, its spelling, its numbers, and what else it holds."""
    names = [f"thing {number}" for number in order]
    used = data.draw(st.lists(st.sampled_from(range(8)), min_size=1, unique=True))
    change = data.draw(st.sampled_from([str.upper, lambda name: name.replace(" ", "_")]))
    ids = tuple(range(8)) if data.draw(st.booleans()) else None
    words = Vocabulary(tuple((change(name), f"x {name}") for name in names), (True,) * 8, "w", ids)
    categories = [names[place] for place in used]
    try:
        found = join(words, categories, used if ids else sorted(used), "a")
    except UserError:
        raise AssertionError("all names are there") from None
    assert found.labels == [change(name) for name in categories]
