"""Vocabularies: what a user may write, what is refused, and the published lists' counts."""

import re
from pathlib import Path

import pytest

from frozenseg.errors import UserError
from frozenseg.text.vocabulary import MAX_NAME_LENGTH, Vocabulary, is_known_stuff

GROUPS = (("car", "truck"), ("road",), ("sky", "clouds"))


@pytest.mark.parametrize(
    "source",
    [
        "car, truck; road; sky, clouds",
        "car,truck;road;sky,clouds;",
        "  car ,  truck ,; road ;\n sky,clouds ",
        ["car, truck", "road", "sky, clouds"],
        [["car", "truck"], ["road"], ("sky", "clouds")],
        (group for group in ["car, truck", "road", "sky, clouds"]),
    ],
)
def test_strings_and_lists(source: object) -> None:
    vocabulary = Vocabulary.parse(source)
    assert vocabulary.names == GROUPS
    assert vocabulary.labels == ["car", "road", "sky"] and len(vocabulary) == 3
    assert vocabulary.flat_names == ["car", "truck", "road", "sky", "clouds"]
    assert vocabulary.class_index == [0, 0, 1, 2, 2]


def test_one_class_and_spaces_within_names() -> None:
    assert Vocabulary.parse("traffic   light").names == (("traffic light",),)
    assert Vocabulary.parse(["traffic\tlight "]).names == (("traffic light",),)


def test_without_things_cocos_stuff_decides() -> None:
    vocabulary = Vocabulary.parse("car; road; sky; zebra crossing; grass")
    assert vocabulary.is_thing == (True, False, False, True, False)
    assert is_known_stuff(["lawn", "grass"]) and not is_known_stuff(["dog"])


@pytest.mark.parametrize("things", ["truck; road", ["road", "car"], [["truck"], ["road"]]])
def test_things_are_named_by_any_of_their_names(things: object) -> None:
    assert Vocabulary.parse("car, truck; road; sky", things).is_thing == (True, True, False)


def test_no_class_is_a_thing_when_said_expressly() -> None:
    assert Vocabulary.parse("car; road", "").is_thing == (False, False)


def test_a_thing_that_is_no_class() -> None:
    with pytest.raises(UserError, match="things: 'trucks' is not in the vocabulary; did you mean"):
        Vocabulary.parse("car, truck; road", "trucks")


def test_a_vocabulary_passes_through_and_takes_other_things() -> None:
    vocabulary = Vocabulary.parse("car; road")
    assert Vocabulary.parse(vocabulary) is vocabulary
    assert Vocabulary.parse(vocabulary, "road").is_thing == (False, True)
    assert vocabulary.is_thing == (True, False)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "the vocabulary is empty"),
        ("   ", "the vocabulary is empty"),
        (";;", "the vocabulary is empty"),
        ([], "the vocabulary is empty"),
        ([""], "the vocabulary is empty"),
        ("car;;road", "class 2 of the vocabulary is blank"),
        ("car; , ;road", "class 2 of the vocabulary is blank"),
        (["car", ""], "class 2 of the vocabulary is blank"),
        (["car", []], "class 2 of the vocabulary is blank"),
        ("car; road; car", "names 'car' in more than one class"),
        ("car, truck; truck, lorry", "names 'truck' in more than one class"),
        (["car", ["road", 3]], r"class 2 of the vocabulary is \['road', 3\]: names must be text"),
        ("car;" + "x" * 300, r"class 2 .*the name 'x{30}\.\.\.' has 300 characters, at most 200"),
    ],
)
def test_what_is_refused(source: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Vocabulary.parse(source)


@pytest.mark.parametrize("source", [5, ["car", 5], None])
def test_what_is_no_text_is_refused(source: object) -> None:
    with pytest.raises((UserError, TypeError)):
        Vocabulary.parse(source)


def test_names_of_every_script_and_the_longest_allowed() -> None:
    names = "🐶; собака; 犬; naïve café; " + "x" * MAX_NAME_LENGTH
    assert Vocabulary.parse(names).labels == names.split("; ")


def test_the_same_synonym_twice_in_one_class_is_no_error() -> None:
    assert Vocabulary.parse("bag, bag; road").names == (("bag", "bag"), ("road",))


def write(folder: Path, text: str, name: str = "words.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_files_in_both_formats(tmp_path: Path) -> None:
    plain = write(tmp_path, "# street\n[things]\ncar, truck\n\n[stuff]\nroad # asphalt\nzebra\n")
    vocabulary = Vocabulary.parse(plain)
    assert vocabulary.names == (("car", "truck"), ("road",), ("zebra",))
    assert vocabulary.is_thing == (True, False, False)
    field = write(tmp_path, "0:invalid_class_id\n1:car,truck\n2: road\n12:sky,clouds\n", "f.txt")
    vocabulary = Vocabulary.parse(str(field))
    assert vocabulary.names == GROUPS
    assert vocabulary.is_thing == (True, False, False)
    assert Vocabulary.parse(field, things="road").is_thing == (False, True, False)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vocabulary .*none\.txt: cannot be read"):
        Vocabulary.parse(tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"vocabulary nowhere\.txt: cannot be read"):
        Vocabulary.parse("nowhere.txt")
    with pytest.raises(UserError, match="cannot be read"):
        Vocabulary.parse(tmp_path)
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00dog")
    with pytest.raises(UserError, match=r"binary\.txt: cannot be read"):
        Vocabulary.parse(binary)
    with pytest.raises(UserError, match="holds no class"):
        Vocabulary.parse(write(tmp_path, "# nothing\n0:invalid_class_id\n"))


def test_a_flag_for_each_class() -> None:
    with pytest.raises(ValueError, match="2 classes but 1 thing flags"):
        Vocabulary((("car",), ("road",)), (True,))


def test_seen_is_a_shared_name_to_the_letter() -> None:
    training = Vocabulary.parse("car, truck; road; sky")
    test = Vocabulary.parse("lorry, truck; Road; roads; sky; tree")
    assert test.seen(training) == [True, False, False, True, False]


def test_the_packaged_training_list() -> None:
    coco = Vocabulary.packaged("coco_panoptic")
    assert len(coco) == 133 and sum(coco.is_thing) == 80
    assert coco.is_thing == (True,) * 80 + (False,) * 53
    assert coco.labels[0] == "person" and "sky" in coco.all_names
    with pytest.raises(
        UserError, match=r"vocabulary coco: not in the package; did you mean coco_stuff"
    ):
        Vocabulary.packaged("coco")


# PAPERS.md 1.1: classes, synonyms, seen.
PUBLISHED = {
    "coco_panoptic": (133, 254, 133),
    "ade20k_150": (150, 403, 64),
    "ade20k_847": (847, 1342, 101),
    "pascal_ctx_59": (59, 160, 51),
    "pascal_ctx_459": (459, 559, 85),
    "pascal_voc_21": (21, 153, 21),
    "cityscapes": (19, 60, 17),
    "mapillary_vistas": (65, 153, 26),
}


@pytest.mark.reference
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(reference: Path, name: str) -> None:
    folder = reference / "vocabularies"
    training = Vocabulary.from_file(folder / "coco_panoptic_with_prompt_eng.txt")
    vocabulary = Vocabulary.from_file(folder / f"{name}_with_prompt_eng.txt")
    seen = vocabulary.seen(training)
    assert (len(vocabulary), len(vocabulary.flat_names), sum(seen)) == PUBLISHED[name]
    if name == "cityscapes":
        unseen = [label for label, flag in zip(vocabulary.labels, seen, strict=True) if not flag]
        assert unseen == ["pole", "rider"]


@pytest.mark.reference
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_packaged_list_says_seen_about_as_the_published_one(reference: Path, name: str) -> None:
    """Its synonyms are our own words, so single flags differ; most must not."""
    folder = reference / "vocabularies"
    published = Vocabulary.from_file(folder / "coco_panoptic_with_prompt_eng.txt")
    packaged = Vocabulary.packaged("coco_panoptic")
    vocabulary = Vocabulary.from_file(folder / f"{name}_with_prompt_eng.txt")
    pairs = zip(vocabulary.seen(packaged), vocabulary.seen(published), strict=True)
    assert sum(ours == theirs for ours, theirs in pairs) / len(vocabulary) >= 0.88


# Our own lists: classes, things where the list says so, and the published list of the same classes.
PACKAGED = {
    "ade20k_150": (150, None, "ade20k_150"),
    "pascal_voc_20": (20, 20, None),
    "pascal_voc_21": (21, 20, "pascal_voc_21"),
    "pascal_context_59": (59, None, "pascal_ctx_59"),
    "cityscapes": (19, 8, "cityscapes"),
    "mapillary_vistas": (65, None, "mapillary_vistas"),
    "bdd100k": (19, 8, None),
    "bdd100k_panoptic": (40, 10, None),
    "coco_stuff": (171, 80, "coco_stuff"),
}


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_lists(name: str) -> None:
    vocabulary = Vocabulary.packaged(name)
    classes, things, _ = PACKAGED[name]
    assert len(vocabulary) == classes
    assert things is None or sum(vocabulary.is_thing) == things
    assert len(vocabulary.all_names) == len(vocabulary.flat_names)  # no name in two classes
    assert all(name == name.lower() for name in vocabulary.all_names)


@pytest.mark.reference
@pytest.mark.parametrize("name", [name for name, (_, _, other) in PACKAGED.items() if other])
def test_packaged_lists_beside_the_published_ones(reference: Path, name: str) -> None:
    """The same classes in the same order, and seen or not alike but for some synonyms."""
    folder = reference / "vocabularies"
    training = Vocabulary.from_file(folder / "coco_panoptic_with_prompt_eng.txt")
    published = Vocabulary.from_file(folder / f"{PACKAGED[name][2]}_with_prompt_eng.txt")
    ours = Vocabulary.packaged(name)
    words = [
        ({word for n in names for word in re.split(r"[\s-]", n)} for names in (a, b))
        for a, b in zip(ours.names, published.names, strict=True)
    ]
    strangers = [label for label, (a, b) in zip(ours.labels, words, strict=True) if not a & b]
    assert set(strangers) <= {"dining table", "potted plant", "tv monitor"}
    flags = zip(
        ours.seen(Vocabulary.packaged("coco_panoptic")), published.seen(training), strict=True
    )
    assert sum(a == b for a, b in flags) / len(ours) >= 0.88


def test_bdd_unseen_classes() -> None:
    """As published, but for the sidewalk, which our list of COCO has beside the pavement."""
    bdd = Vocabulary.packaged("bdd100k")
    seen = bdd.seen(Vocabulary.packaged("coco_panoptic"))
    unseen = [label for label, flag in zip(bdd.labels, seen, strict=True) if not flag]
    assert unseen == ["pole", "traffic sign", "vegetation", "terrain", "rider"]


@pytest.mark.reference
def test_bdd_counts_of_the_published_list(reference: Path) -> None:
    training = Vocabulary.from_file(
        reference / "vocabularies" / "coco_panoptic_with_prompt_eng.txt"
    )
    assert sum(Vocabulary.packaged("bdd100k").seen(training)) == 13


def test_pascal_background_is_many_words_and_none_of_another_class() -> None:
    first = Vocabulary.packaged("pascal_voc_21").names[0]
    assert first[0] == "background" and len(first) > 40
    assert Vocabulary.packaged("pascal_voc_20").all_names.isdisjoint(first)
