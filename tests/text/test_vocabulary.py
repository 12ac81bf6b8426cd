"""Vocabularies: what a user may write, what is refused, and the published lists' counts."""

import builtins
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frozenseg.errors import UserError
from frozenseg.notes import note
from frozenseg.text.names import JOINERS, MAX_NAME_LENGTH, clean, spelling
from frozenseg.text.vocabulary import Vocabulary, is_known_stuff

PROPERTY = settings(derandomize=True, deadline=None, max_examples=300)
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
        {7: "road", 2: "car, truck", 30: ["sky", "clouds"]},
        {"7": "road", "2": "car, truck", "30": ["sky", "clouds"]},
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
    capitals = Vocabulary.parse("Car; ROAD; Sky; Zebra crossing; grasses; Mountain_; brick-wall")
    assert capitals.is_thing == (True, False, False, True, False, False, False)


@pytest.mark.parametrize(
    "things",
    ["truck; road", ["road", "car"], [["truck"], ["road"]], iter(["car", "road"])],
)
def test_things_are_named_by_any_of_their_names(things: object) -> None:
    assert Vocabulary.parse("car, truck; road; sky", things).is_thing == (True, True, False)


def test_no_class_is_a_thing_when_said_expressly() -> None:
    for nothing in ("", " ", [], (), iter([]), (name for name in ""), {}.keys(), np.array([])):
        assert Vocabulary.parse("car; road", nothing).is_thing == (False, False)


def test_a_thing_that_is_no_class() -> None:
    with pytest.raises(UserError, match="things: 'trucks' is not in the vocabulary; did you mean"):
        Vocabulary.parse("car, truck; road", "trucks")
    with (
        open(os.devnull) as file,
        pytest.raises(UserError, match="things is .*: give names as"),
    ):
        Vocabulary.parse("car", file)


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


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (5, "the vocabulary is 5: give names as"),
        (None, "the vocabulary is None: give names as"),
        (b"car", "the vocabulary is b'car': give names as"),
        ([1, 2], "class 1 of the vocabulary is 1: names must be text"),
        (["car", 5], "class 2 of the vocabulary is 5: names must be text"),
        (["car", b"road"], "class 2 of the vocabulary is b'road': names must be text"),
        ({"house": 1}, "the vocabulary has the key 'house': give names as"),
        ({0: "sky", "0": "car"}, "has the number 0 twice"),
        ({0: 1}, "class 0 of the vocabulary is 1: names must be text"),
        ({}, "the vocabulary is empty"),
        ("caf\udce9; car", r"class 1 of the vocabulary is 'caf\\udce9': not valid text"),
        ("car; a\x1b[31mb", "class 2 .* holds the control character"),
        ("car; \u200b", "class 2 of the vocabulary is blank"),
        ("car; road; Car", r"names 'Car' in more than one class \(class 1 and class 3\)"),
        ("traffic light; traffic_light", "names 'traffic_light' in more than one class"),
        ("t-shirt; T shirt", "names 'T shirt' in more than one class"),
        ("caf\u00e9; cafe\u0301", "in more than one class"),
        ("car; \ufeffcar", "names 'car' in more than one class"),
        (["sky", "Sky"], "names 'Sky' in more than one class"),
        ({0: "sky", 1: "SKY"}, "names 'SKY' in more than one class"),
    ],
)
def test_what_is_no_class_or_one_twice_is_refused(source: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Vocabulary.parse(source)
    assert str(caught.value).isprintable()  # one line that any terminal shows


def test_what_is_shown_is_what_was_written_but_for_what_nobody_sees() -> None:
    written = "Caf\u00e9 Bar; \ufeffT-Shirt; cafe\u0301\u00ad \u200bnoir; \u202etraffic_light"
    assert Vocabulary.parse(written).labels == [
        "Caf\u00e9 Bar", "T-Shirt", "caf\u00e9 noir", "traffic_light",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("wolf, lynx, hare", "1 class with 3 names: wolf = lynx = hare; separate classes by ;"),
        ("wolf, lynx", "1 class with 2 names: wolf = lynx; separate classes by ;"),
        ("wolf. lynx. hare", "'wolf. lynx. hare' is read as one name; separate classes by ;"),
        ("wolf|lynx", "'wolf|lynx' is read as one name; separate classes by ;"),
        ("wolf\nlynx", "1 class: 'wolf lynx'; separate classes by ;, not by lines"),
        (["wolf. lynx. hare."], "'wolf. lynx. hare.' is read as one name"),
        (["wolf;lynx"], "'wolf;lynx' is read as one name"),
        ("狼；兎", "is read as one name; separate classes by ;"),
    ],
)
def test_several_classes_that_have_become_one_are_told_once(
    source: object, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    note.cache_clear()
    for _ in range(2):
        assert len(Vocabulary.parse(source)) == 1
    assert len(caplog.messages) == 1 and line in caplog.messages[0]


@pytest.mark.parametrize(
    "source", ["wolf", "wolf; lynx, bobcat", ["wolf, lynx"], [["st. bernard", "x"], "y"]]
)
def test_what_is_clear_is_not_commented_on(
    source: object, caplog: pytest.LogCaptureFixture
) -> None:
    note.cache_clear()
    Vocabulary.parse(source)
    assert caplog.messages == []


def test_a_comma_within_a_name_of_a_list_of_lists() -> None:
    vocabulary = Vocabulary.parse([["wall, brick"], ["sky"]])
    assert vocabulary.names == (("wall, brick",), ("sky",))
    with pytest.raises(UserError, match="'wall, brick' cannot be written in a file of lines"):
        vocabulary.text()


def test_what_a_file_of_lines_would_not_be_read_as_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    for words in ("1 cat; 2 dog; 3 cow", "7, seven; 8, eight", '5" pipe; 6" pipe', "cat; label"):
        vocabulary = Vocabulary.parse(words)
        path.write_text(vocabulary.text(), encoding="utf-8")
        assert Vocabulary.from_file(path) == vocabulary
    for words in ("label; cat", "invalid class id; x", "invalid_class_id"):
        odd = words.partition(";")[0]
        with pytest.raises(UserError, match=f"'{odd}' cannot be written in a file of lines"):
            Vocabulary.parse(words).text()


def test_an_annotations_names_are_one_each(caplog: pytest.LogCaptureFixture) -> None:
    names, flags = ["road, route", "sky", " "], (False, False, True)
    found = Vocabulary.of_categories(names[:2], flags[:2], (4, 9), "a.json")
    assert found.names == (("road, route",), ("sky",)) and found.ids == (4, 9)
    assert "a.json: 1 names have commas" in caplog.text
    found = Vocabulary.of_categories(names[:2], flags[:2], (4, 9), "metadata", synonyms=True)
    assert found.names == (("road", "route"), ("sky",))
    with pytest.raises(UserError, match="a.json: the name of category 11 is blank"):
        Vocabulary.of_categories(names, flags, (4, 9, 11), "a.json")


def test_the_line_of_the_log() -> None:
    vocabulary = Vocabulary.parse("Sky; gizmo-star; b; c; d; e")
    training = Vocabulary.parse("sky, clouds; Gizmo star")
    assert vocabulary.summary(training) == (
        "classes: 6, from the vocabulary: Sky, gizmo-star, b, c, d, ...; 2 seen"
    )
    assert Vocabulary.packaged("bdd100k").summary() == (
        "classes: 19, from the list bdd100k: road, sidewalk, building, wall, fence, ..."
    )


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
    vocabulary = Vocabulary.from_file(str(field))
    assert vocabulary.names == GROUPS and vocabulary.ids == (1, 2, 12)
    assert vocabulary.is_thing == (True, False, False)
    assert Vocabulary.parse(field, things="road").is_thing == (False, True, False)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vocabulary .*none\.txt: cannot be read"):
        Vocabulary.parse(tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"vocabulary a.*: cannot be read"):
        Vocabulary.from_file("a" * 5000)
    with pytest.raises(UserError, match="cannot be read"):
        Vocabulary.from_file("a\0b")
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


@pytest.mark.parametrize(
    ("text", "names", "things"),
    [
        ("id,name\n9,sky\n2,car\n", [("car",), ("sky",)], [True, False]),
        ('Name,Synonyms,isthing\nsky,"heaven, clouds",1\n', [("sky", "heaven", "clouds")], [True]),
        ("ratio;class;ID\n0,5;wall, brick;1\n", [("wall, brick",)], [True]),
        ("1,car,truck\n0,sky\n", [("sky",), ("car", "truck")], [False, True]),
        ('"car, red",auto\nsky\n\n', [("car, red", "auto"), ("sky",)], [True, False]),
        ("name\r\ncar\r\n", [("car",)], [True]),
        ("class,class_name\n1,sky\n0,car\n", [("car",), ("sky",)], [True, False]),
        ("label,class\n0,car\n1,sky\n", [("car",), ("sky",)], [True, False]),
        ("category,name,label\n1,car,truck\n1,sky,air\n", [("car",), ("sky",)], [True, False]),
        ("class,label\nb,5\na,3\n", [("a",), ("b",)], [True, True]),
        ("index,id,name\n0,9,sky\n1,2,car\n", [("car",), ("sky",)], [True, False]),
        ("label,name\n2,1\n1,0\n", [("1",), ("0",)], [True, True]),
        ("0\n1\n2\n", [("0",), ("1",), ("2",)], [True] * 3),
        ("0,\n1,\n", [("0",), ("1",)], [True] * 2),
    ],
)
def test_tables(
    tmp_path: Path, text: str, names: list[tuple[str, ...]], things: list[bool]
) -> None:
    vocabulary = Vocabulary.parse(write(tmp_path, text, "words.csv"))
    assert list(vocabulary.names) == names and list(vocabulary.is_thing) == things


def test_a_table_of_tabs(tmp_path: Path) -> None:
    vocabulary = Vocabulary.parse(write(tmp_path, "name\tid\nroad\t5\ncar\t1\n", "words.tsv"))
    assert vocabulary.names == (("car",), ("road",))


def test_a_table_without_heading_has_any_number_of_synonyms(tmp_path: Path) -> None:
    names = tuple(f"synonym {number}" for number in range(150))
    path = write(tmp_path, f"{','.join(names)}\ncar\n", "words.csv")
    assert Vocabulary.from_file(path).names == (names, ("car",))


@pytest.mark.parametrize(("title", "count"), [("label", 1), ("Class", 1), ("name", 0)])
def test_a_lone_title_that_may_be_a_class_is_said_once(
    tmp_path: Path, title: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The documented title `name` is not commented on, so that a user can silence the warning."""
    path = write(tmp_path, f"{title}\nbottle\ncup\n", "words.csv")
    for _ in range(2):
        assert Vocabulary.from_file(path).labels == ["bottle", "cup"]
    assert len(caplog.messages) == count
    assert all(
        f"line 1: '{title}' is read as the heading of the table; if it is a class, write a line"
        in line
        for line in caplog.messages
    )
    path = write(tmp_path, f"name\n{title}\ncup\n", "words.csv")
    assert Vocabulary.from_file(path).labels == [title, "cup"]


def test_what_is_quoted_is_one_name() -> None:
    groups = Vocabulary.parse('"a; b", c; d').names
    assert groups == (("a; b", "c"), ("d",))
    assert Vocabulary.parse('d; "a, b" ;c').names == (("d",), ("a, b",), ("c",))
    # Inches are no quotes.
    assert Vocabulary.parse('5" pipe; 6" pipe').names == (('5" pipe',), ('6" pipe',))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,area\n1,2\n", "line 1: the table has no column `name`"),
        (
            "category,label\nvehicle,car\nanimal,dog\n",
            "line 1: the columns 'category' and 'label' could both be the name; leave one out",
        ),
        ("name,isthing,name\ncar,1,auto\n", "columns 'name' and 'name' could both be the name"),
        ("idx,index,name\n1,2,car\n", "columns 'idx' and 'index' could both be the id"),
        ("id,name\n1,car, red\n", "line 2: has more cells than the heading; put what has a comma"),
        ("id,name\nx,car\n", "line 2: id is 'x'"),
        ("id,name\n1,\n", "line 2 is blank"),
        ("0,zero\n1\n", "line 2 is blank"),
        ("name,isthing\ncar,maybe\n", "line 2: isthing is 'maybe'"),
        ("name\ncar\nCar\n", r"names 'Car' in more than one class \(line 2 and line 3\)"),
        ("\n\n", "holds no class"),
        ("name\n", "holds no class"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Vocabulary.from_file(write(tmp_path, text, "words.csv"))


def test_a_plural_of_a_users_word_is_seen() -> None:
    training = Vocabulary.parse("car, truck; traffic light; berries; boxes")
    test = Vocabulary.parse("Cars; Traffic-Lights; berry; box; tree")
    assert test.seen(training, plurals=True) == [True, True, True, True, False]
    assert "; 4 seen" in test.summary(training, plurals=True)


def test_seen_is_a_shared_name_in_any_spelling_but_no_plural() -> None:
    training = Vocabulary.parse("car, truck; road; sky; Traffic-Light")
    test = Vocabulary.parse("lorry, truck; Road; roads; SKY\u200b; tree; traffic_light")
    assert test.seen(training) == [True, True, False, True, False, True]


@pytest.mark.parametrize(
    ("text", "names", "things"),
    [
        ("\ufeffcar\nsky\n", ["car", "sky"], [True, False]),
        ("\ufeff0:invalid_class_id\n1:car\n2:sky\n", ["car", "sky"], [True, False]),
        ("\ufeff[stuff]\r\ncar\r\n[Things]\rsky\r", ["car", "sky"], [False, True]),
        ("9:sky\n2:car\n10:tree\n", ["car", "sky", "tree"], [True, False, False]),
        ("car # red # blue\nC#\n#all\n", ["car", "C#"], [True, True]),
        ('"car, red", auto\n"the ""sky"""\n', ["car, red", 'the "sky"'], [True, True]),
        ('"1 car"\n"2 cars"\n', ["1 car", "2 cars"], [True, True]),
        ("2 doors\n2 seats\n", ["2 doors", "2 seats"], [True, True]),
        ("\ufeff[stuff]\ncar\n\ufeff[things]\nsky\n", ["car", "sky"], [False, True]),
        ("１：sky\n0:car\n", ["car", "sky"], [True, False]),
        ('["car", "sky"]', ["car", "sky"], [True, False]),
        ('{"names": {"1": "sky", "0": "car"}, "nc": 2}', ["car", "sky"], [True, False]),
        ('{"names": ["car", "sky"], "seen": [1, 0]}', ["car", "sky"], [True, False]),
        ('[["car, red", "auto"], ["sky"]]', ["car, red", "sky"], [True, False]),
        (
            '{"categories": [{"id": 7, "name": "sky", "isthing": 1}, {"id": 2, "name": "car"}]}',
            ["car", "sky"],
            [True, True],
        ),
    ],
)
@pytest.mark.parametrize("name", ["words.txt", "words.json"])
def test_what_other_programs_write(
    tmp_path: Path, text: str, names: list[str], things: list[bool], name: str
) -> None:
    if name.endswith("json") and not text.startswith(("[", "{")):
        return  # not JSON
    vocabulary = Vocabulary.from_file(write(tmp_path, text, name))
    assert vocabulary.labels == names and list(vocabulary.is_thing) == things


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[things]\ncar\n[other]\nx\n", r"line 3: no section \[other\]; known: \[things\]"),
        ("car;sky;road\n", "line 1: has a `;`; in a file each class has its own line"),
        ("car\nsky\ncar\n", r"names 'car' in more than one class \(line 1 and line 3\)"),
        ("car\nsky\nCAR, bus\n", r"names 'CAR' in more than one class \(line 1 and line 3\)"),
        ("1:car\n1:sky\n", "line 1 and line 2 have the same number, 1"),
        ("1:car\nsky\n", "line 2: has no number, unlike other lines"),
        ("id,name\n1,car\n", "line 1: the heading of a table"),
        ("1:\n", "line 1 is blank"),
        ("car\n\u0007\n", "line 2 .*control character"),
        ('["car", "Car"]', "names 'Car' in more than one class"),
        ('{"0": "car", "0": "sky"}', "has the key '0' twice in one object"),
        ('{"car": 1}', "has the key 'car'"),
        ("[1, 2]", "class 1 of vocabulary .* is 1: names must be text"),
        ('{"categories": [{"id": "1", "name": "a"}]}', r"categories\[0\]: id is '1'"),
        ('{"categories": [{"id": 1, "name": "a", "isthing": "false"}]}', "isthing is 'false'"),
        ('{"categories": [{"id": 1}]}', "is None: names must be text"),
        ('{"categories": 5}', r"words\.txt is 5: give names as"),
        ("name\ncar\nsky\n", "line 1: the heading of a table"),
        ("1,car\n2,sky\n", "line 2: begins with a number, .* number of a class as 2:name"),
        ("1\tcar\n2\tsky\n", "line 2: begins with a number"),
        ("sky\ncar\tauto\n", r"line 2: has a tab; save a table as \.csv or \.tsv"),
        ("Idx,Ratio,Name\n1,0.2,car\n2,0.1,sky\n", "line 3: begins with a number"),
        ('{"id": 1, "name": "car"}\n{"id": 2, "name": "sky"}\n', "not valid JSON"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Vocabulary.from_file(write(tmp_path, text))
    assert "words.txt" in str(caught.value)


def test_yaml_is_refused_rather_than_read_by_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="YAML is not read; write one name in each line"):
        Vocabulary.from_file(write(tmp_path, "nc: 2\nnames: [car, sky]\n", "data.yaml"))


@pytest.mark.parametrize(
    "source",
    [
        [{"id": 7, "name": "sky"}, {"id": 2, "name": "car"}],
        {"names": {7: "sky", 2: "car"}},
        {np.int64(7): "sky", np.int64(2): "car"},
    ],
)
def test_tables_of_other_programs_in_python(source: Any) -> None:
    vocabulary = Vocabulary.parse(source)
    assert vocabulary.labels == ["car", "sky"] and vocabulary.ids == (2, 7)


def test_synonyms_of_categories_count_where_one_class_has_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bows = [
        {"id": 1, "name": "bow, ribbon", "synonyms": ["bow, ribbon", "bow", "knot"]},
        {"id": 2, "name": "bow (weapon)", "synonyms": ["bow", "Bow_(weapon)"]},
    ]
    assert Vocabulary.parse(bows).names == (("bow, ribbon", "knot"), ("bow (weapon)",))
    assert "2 synonyms are left out because other classes have them too, e.g. 'bow'" in caplog.text


@pytest.mark.parametrize("one", [np.array("car"), torch.tensor(5)])
def test_one_value_in_an_array_is_no_list(one: object) -> None:
    with pytest.raises(UserError, match=r"the vocabulary is .*: give names as"):
        Vocabulary.parse(one)
    with pytest.raises(UserError, match=r"things is .*: give names as"):
        Vocabulary.parse("car", one)


def test_a_string_that_is_the_name_of_a_file_is_refused() -> None:
    for source in ("demo/vocabulary.txt", " words.JSON", "words.csv"):
        with pytest.raises(UserError, match="class names were expected; give a file by"):
            Vocabulary.parse(source)
        with pytest.raises(UserError, match="things is .*: class names were expected"):
            Vocabulary.parse("car", source)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("car, road, sky\n", "1 class with 3 names: car = road = sky; in a file each class has"),
        ("car，truck\nroad\n", "'car，truck' is read as one name; in a file each class has"),
    ],
)
def test_one_class_of_several_in_a_file_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, line: str
) -> None:
    Vocabulary.from_file(write(tmp_path, text))
    assert line in caplog.text


def test_json_that_is_cut_or_deep(tmp_path: Path) -> None:
    for text in ('["car", "sk', "[" * 30_000):
        with pytest.raises(UserError, match="not valid JSON"):
            Vocabulary.from_file(write(tmp_path, text, "words.json"))


def test_a_file_without_end_is_no_list() -> None:
    with pytest.raises(UserError, match="has more than 16777216 bytes"):
        Vocabulary.from_file("/dev/zero")


def test_the_fields_lists_may_repeat_a_name_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "1:door, double door\n2:double door\n")
    assert len(Vocabulary.from_file(path)) == 2
    assert "1 names are in more than one class, e.g. 'double door'" in caplog.text
    path = write(tmp_path, "door, double door\ndouble door\n")
    assert len(Vocabulary.from_file(path, may_repeat=True)) == 2


def test_the_packaged_training_list() -> None:
    coco = Vocabulary.packaged("coco_panoptic")
    assert len(coco) == 133 and sum(coco.is_thing) == 80
    assert coco.is_thing == (True,) * 80 + (False,) * 53
    assert coco.labels[0] == "person" and "sky" in coco.spellings
    with pytest.raises(
        UserError, match=r"vocabulary coco: not in the package; did you mean coco_stuff"
    ):
        Vocabulary.packaged("coco")


# docs/papers.md, "FrozenSeg's architecture": classes, synonyms, seen.
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
    assert len(vocabulary.spellings) == len(vocabulary.flat_names)  # no name in two classes
    assert all(name == name.lower() for name in vocabulary.spellings)


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
    assert Vocabulary.packaged("pascal_voc_20").spellings.isdisjoint(first)


# Text of every kind: letters, separators, digits, control and invisible characters, surrogates.
ANY_TEXT = st.text(max_size=40) | st.text(
    alphabet=st.sampled_from(
        'aB\u00e9\u0301;,:.#[]{}|"\\/-_ \t\n\r\x00\x1b\ufeff\u200b\u200d\ud800犬0123'
    ),
    max_size=40,
)
PLAIN = st.text(alphabet=st.sampled_from("abcXYZ \u00e9犬'().+-_"), min_size=1, max_size=12)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=8) | ANY_TEXT,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner)
        | st.dictionaries(st.integers() | ANY_TEXT | st.none(), inner, max_size=4)
        | st.frozensets(ANY_TEXT | st.integers(), max_size=3)
    ),
    max_leaves=12,
)


def parsed(source: object, things: object = None) -> Vocabulary | None:
    """A vocabulary that keeps its promises, or None for what is refused in one printable line."""
    try:
        found = Vocabulary.parse(source, things)
    except UserError as error:
        assert "\n" not in str(error)
        str(error).encode()
        return None
    for name in found.flat_names:
        assert name and clean(name, "again") == name
        assert not {unicodedata.category(c) for c in name if c not in JOINERS} & {"Cc", "Cf", "Cs"}
    assert len(found.spellings) <= len(found.flat_names)
    owners = [{spelling(name) for name in group} for group in found.names]
    assert sum(map(len, owners)) == len(found.spellings)  # no name in two classes
    return found


@PROPERTY
@given(ANYTHING, st.none() | ANYTHING)
def test_any_input_is_a_vocabulary_or_one_line(source: object, things: object) -> None:
    parsed(source, things)


@PROPERTY
@given(st.binary(max_size=60) | ANY_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_file_is_a_vocabulary_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    found = parsed(path) if b":" not in content else None
    if found is not None and not any(re.search(r"[,;#]|^\[", n) for n in found.flat_names):
        path.write_text(found.text(), encoding="utf-8")
        assert Vocabulary.from_file(path) == found


@PROPERTY
@given(st.lists(st.lists(PLAIN, min_size=1, max_size=3), min_size=1, max_size=6), st.data())
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[str]], data: st.DataObject
) -> None:
    first = parsed(groups)
    if first is None:
        return
    things = data.draw(st.lists(st.sampled_from(first.labels), unique=True))
    vocabulary = Vocabulary.parse(groups, things)
    assert Vocabulary.parse(vocabulary.names, things) == vocabulary
    assert Vocabulary.parse(dict(enumerate(vocabulary.names)), things) == vocabulary
    assert Vocabulary.parse("; ".join(map(", ".join, vocabulary.names)), things) == vocabulary
    path = tmp_path_factory.getbasetemp() / "written.txt"
    path.write_text(vocabulary.text(), encoding="utf-8")
    assert Vocabulary.from_file(path) == vocabulary
    # The order of the classes changes nothing but the order.
    order = data.draw(st.permutations(range(len(vocabulary))))
    mixed = Vocabulary.parse([list(vocabulary.names[i]) for i in order], things)
    assert mixed == vocabulary.select(order)
    assert mixed.seen(first) == [True] * len(first)


@PROPERTY
@given(PLAIN, st.data())
def test_all_spellings_of_a_name_are_one(name: str, data: st.DataObject) -> None:
    if parsed([[name]]) is None:
        return
    changes = (str.upper, str.lower, str.title, lambda text: text.replace(" ", "_"),
               lambda text: text.replace("-", " "), lambda text: f"\u200b{text} ",
               lambda text: unicodedata.normalize("NFD", text))  # fmt: skip
    other = data.draw(st.sampled_from(changes))(name)
    if parsed([[other]]) is None:
        return
    one, two = Vocabulary.parse([[name]]), Vocabulary.parse([[other]])
    assert one.spellings == two.spellings
    assert one.seen(two) == [True] and one.is_thing == two.is_thing
    assert parsed([[name], [other]]) is None
    assert Vocabulary.parse([[name], ["zz"]], [[other]]).is_thing == (True, False)


PATHS = (
    "words.txt",
    "/etc/passwd",
    "../words.json",
    "C:\\words.txt",
    "file:///etc/hosts",
    "~/a.txt",
)


@PROPERTY
@given(st.sampled_from(PATHS) | st.lists(PLAIN, min_size=1).map("/".join))
def test_a_string_is_never_opened(path: str) -> None:
    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"opened {arguments[0]}")

    is_known_stuff(["sky"])  # the package's own list is read here
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((builtins, "open"), (Path, "open"), (Path, "read_text"), (os, "open")):
            patch.setattr(owner, name, refuse)
        for source in (path, [path], [[path]], {0: path}):
            found = parsed(source)
            assert found is None or path.split(",")[0].split(";")[0].strip()[:2] in found.labels[0]
        parsed("car; road", path)


def test_errors_are_also_those_that_people_catch(tmp_path: Path) -> None:
    for words in ("", "dog; dog", ["dog", 3], {"dog": 1}):
        with pytest.raises(ValueError):
            Vocabulary.parse(words)
    with pytest.raises(FileNotFoundError):
        Vocabulary.parse(tmp_path / "none.txt")
