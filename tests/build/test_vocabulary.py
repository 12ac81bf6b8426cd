"""Names of a data set's classes: from its annotation, unless a list is named for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from fvcore.common.config import CfgNode

from frozenseg.build.evaluator import eval_datasets
from frozenseg.build.training import train
from frozenseg.build.training_data import training_dataset
from frozenseg.build.vocabulary import (
    build_seen_vocabulary,
    build_training_vocabulary,
    build_vocabulary,
    named_list,
    require_seen,
    settle_training_vocabulary,
)
from frozenseg.config import load_config
from frozenseg.data.benchmarks import data_root, find_benchmark, load_records
from frozenseg.data.checks import check
from frozenseg.data.records import Categories
from frozenseg.errors import UserError
from frozenseg.evaluation.on_disk import score_instances, score_panoptic
from frozenseg.evaluation.semantic import SemanticIoU
from frozenseg.text.vocabulary import Vocabulary
from tests.data.tiny import dataset_name, write_dataset


def own_set(folder: Path, categories: list[dict[str, Any]] | None = None) -> str:
    """Two images whose annotation lists these categories, cat (7), dog (3), grass (90) as default;
    its name in DATASETS."""
    write_dataset(folder, [(40, 50), (50, 40)])
    if categories is not None:
        path = folder / "panoptic.json"
        content = json.loads(path.read_text())
        listed = {entry["id"] for entry in categories}
        wanted = content["categories"]
        assert not any(entry["id"] in listed for entry in wanted)
        path.write_text(json.dumps(content | {"categories": wanted + categories}))
    return dataset_name(folder)


def config(train: str, *options: str) -> CfgNode:
    sets = ("DATASETS.TRAIN", f"('{train}',)", "DATASETS.TEST", f"('{train}',)")
    return load_config(None, [*sets, *options], freeze=False)


def parts(count: int) -> list[dict[str, Any]]:
    """Categories that make `count` with those of `own_set`."""
    return [{"id": 100 + i, "name": f"gizmo-{i}", "isthing": i % 2} for i in range(count - 3)]


@pytest.mark.parametrize("count", [3, 24, 133])
@pytest.mark.parametrize("options", [(), ("DATASETS.TRAIN_VOCABULARY", "small_world_seen")])
def test_names_are_those_of_the_annotation_whatever_their_number(
    tmp_path: Path, count: int, options: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    name = own_set(tmp_path, parts(count))
    cfg = config(name, *options)
    dataset, words = training_dataset(cfg)
    assert words.labels == list(dataset.categories.names) and len(words) == count
    assert words.is_thing == dataset.categories.is_thing
    assert words.labels[:2] == ["dog", "cat"]
    # The classes trained on are seen, unless others are named; the small world has grass.
    seen = 1 if options else count
    shown = "dog, cat, grass" if count == 3 else "dog, cat, grass, gizmo-0, gizmo-1, ..."
    line = f"classes: {count}, from {tmp_path / 'panoptic.json'}: {shown}; {seen} seen"
    assert line in caplog.text
    (entry,) = eval_datasets(cfg)
    assert entry.vocabulary == words and sum(entry.vocabulary.seen(entry.training)) == seen
    # The check tells the same.
    findings = [found.text for found in check(find_benchmark(name), data_root())]
    assert line.split(";")[0] in findings


def test_cocos_annotation_gets_the_packages_list_by_name() -> None:
    """Where the row or a key names it; of a part of COCO too, and in any order of the list."""
    coco = Vocabulary.packaged("coco_panoptic")
    numbers = range(1, 134)
    whole = Categories(tuple(coco.labels), coco.is_thing, tuple(numbers))
    name = "openvocab_coco_2017_val_panoptic_with_sem_seg"
    assert build_vocabulary(load_config(None), name, whole) == coco
    assert build_training_vocabulary(load_config(None)) == coco
    some, cfg = (
        whole.select([60, 5, 17]),
        load_config(None, ["DATASETS.VOCABULARY", "coco_panoptic"]),
    )
    assert build_vocabulary(cfg, "coco_panoptic:a:b:c", some) == coco.select([60, 5, 17])


def test_seen_flags_do_not_depend_on_case_or_separators(tmp_path: Path) -> None:
    name = own_set(tmp_path)
    cfg = config(name, "DATASETS.TRAIN_VOCABULARY", 'classes:[["CAT"], ["Grass", "lawn"]]')
    _, categories = load_records(name)
    words = build_vocabulary(cfg, name, categories)
    assert words.labels == ["dog", "cat", "grass"]
    assert words.seen(build_training_vocabulary(cfg)) == [False, True, True]


@pytest.mark.parametrize(
    "lines",
    [
        "7:kitten, cat\n3:dog\n90:grass, lawn\n",
        "90:grass, lawn\n3:dog\n7:kitten, cat\n",
        "kitten, cat\nGRASS, lawn\ndog\n",
        "dog\nkitten,cat\ngrass\nzebra\n",
        '{"names": {"7": ["kitten", "cat"], "3": "dog", "90": "grass"}}',
    ],
)
@pytest.mark.parametrize("key", ["VOCABULARY", "VOCABULARIES"])
def test_a_named_list_in_any_order(tmp_path: Path, lines: str, key: str) -> None:
    name, path = own_set(tmp_path), tmp_path / "words.txt"
    path.write_text(lines)
    value = str(path) if key == "VOCABULARY" else f"('{name}={path}',)"
    cfg = config(name, f"DATASETS.{key}", value)
    _, words = training_dataset(cfg)
    assert [label.lower() for label in words.labels] == ["dog", "kitten", "grass"]
    assert words.is_thing == (True, True, False)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("7:dog\n3:cat\n90:grass\n", "names category 3 'dog', .*words.txt has 3:cat"),
        ("cat\ndog\nroad\n", "category 90, 'grass', has no class of its own in the list"),
        ("Hund\nKatze\nGras\n", "3 of 3 class names in .* differ from .*'dog' in place of 'Hund'"),
    ],
)
def test_a_list_that_contradicts_the_annotation(tmp_path: Path, lines: str, message: str) -> None:
    name, path = own_set(tmp_path), tmp_path / "words.txt"
    path.write_text(lines)
    with pytest.raises(UserError, match=message):
        training_dataset(config(name, "DATASETS.VOCABULARY", str(path)))
    by_order = ("DATASETS.VOCABULARY", str(path), "DATASETS.VOCABULARY_JOIN", "order")
    _, words = training_dataset(config(name, *by_order))
    first = sorted(lines.split(), key=lambda line: int(line.split(":")[0]) if ":" in line else 0)
    assert words.labels == [line.rpartition(":")[2] for line in first]
    with pytest.raises(UserError, match="VOCABULARY_JOIN place: must be one of names, order"):
        training_dataset(config(name, *by_order[:3], "place"))


def test_a_list_for_one_set_of_several(tmp_path: Path) -> None:
    one, two = own_set(tmp_path / "one"), own_set(tmp_path / "two")
    path = tmp_path / "words.txt"
    path.write_text("puppy, dog\nkitten, cat\nlawn, grass\n")
    cfg = config(one, "DATASETS.TEST", f"('{two}',)", "DATASETS.VOCABULARIES", f"('{two}={path}',)")
    _, words = training_dataset(cfg)
    assert words.labels == ["dog", "cat", "grass"]
    (entry,) = eval_datasets(cfg)
    assert entry.vocabulary.labels == ["puppy", "kitten", "lawn"]
    assert entry.vocabulary.seen(entry.training) == [True, True, True]


def test_training_sets_have_one_list(tmp_path: Path) -> None:
    """The list of a further set was not even read."""
    one, two = own_set(tmp_path / "one"), own_set(tmp_path / "two")
    path = tmp_path / "words.txt"

    def names(*listed: str) -> list[str]:
        pairs = tuple(f"{name}={path}" for name in listed)
        sets = ("DATASETS.TRAIN", repr((one, two)), "DATASETS.VOCABULARIES", repr(pairs))
        return training_dataset(config(one, *sets))[1].labels

    with pytest.raises(UserError, match="words.txt"):
        names(two)
    path.write_text("puppy, dog\nkitten, cat\nlawn, grass\n")
    with pytest.raises(UserError, match="two.* other names than .*one.*; give both one list"):
        names(two)
    assert names(one, two) == names(one) == ["puppy", "kitten", "lawn"]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("('words.txt',)", "'words.txt': SET=LIST was expected"),
        ("('elsewhere=words.txt',)", "neither DATASETS.TRAIN nor DATASETS.TEST has the set"),
    ],
)
def test_lists_for_sets_that_are_not_there(tmp_path: Path, pairs: str, message: str) -> None:
    name = own_set(tmp_path)
    with pytest.raises(UserError, match=message):
        training_dataset(config(name, "DATASETS.VOCABULARIES", pairs))


def test_what_counts_as_seen_may_be_a_data_set_by_its_files(tmp_path: Path) -> None:
    name = own_set(tmp_path)
    cfg = load_config(None, ["DATASETS.TRAIN_VOCABULARY", name])
    assert build_training_vocabulary(cfg).labels == ["dog", "cat", "grass"]
    assert build_seen_vocabulary(cfg, "pascal5i_fold0_val").labels != ["dog", "cat", "grass"]


def test_a_run_knows_its_classes_without_its_data(tmp_path: Path) -> None:
    name, path = own_set(tmp_path), tmp_path / "words.txt"
    path.write_text('[["puppy", "dog"], ["kitten, small", "cat"], ["grass"]]')
    cfg = config(name, "DATASETS.VOCABULARIES", f"('{name}={path}',)")
    settle_training_vocabulary(cfg)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    path.unlink()
    (tmp_path / "panoptic.json").unlink()
    again = build_training_vocabulary(load_config(tmp_path / "config.yaml"))
    assert again.names == (("puppy", "dog"), ("kitten, small", "cat"), ("grass",))
    untouched = load_config(None, freeze=False)
    settle_training_vocabulary(untouched)
    assert untouched.DATASETS.TRAIN_VOCABULARY == ""  # the package's list is everywhere


def test_a_training_is_not_begun_with_the_seen_classes_of_another(tmp_path: Path) -> None:
    first, other = own_set(tmp_path / "first"), own_set(tmp_path / "other")
    path = tmp_path / "other" / "panoptic.json"
    path.write_text(path.read_text().replace('"cat"', '"lion"'))
    cfg = config(first, "OUTPUT_DIR", str(tmp_path / "run"))
    settle_training_vocabulary(cfg)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    begun = load_config(tmp_path / "config.yaml", ["DATASETS.TRAIN", f"('{other}',)"])
    message = "TRAIN_VOCABULARY holds the classes of another training, and 'lion' of DATASETS.TRAIN"
    with pytest.raises(UserError, match=message):
        train(begun)
    classes = Vocabulary.parse("dog; lion; grass")
    require_seen(cfg, classes.select([0, 2]))
    for value in ("", "small_world_seen"):  # what the user names may lack some
        options = ["DATASETS.TRAIN", f"('{other}',)", "DATASETS.TRAIN_VOCABULARY", value]
        require_seen(load_config(tmp_path / "config.yaml", options), classes)


def test_a_run_knows_classes_that_share_a_name(tmp_path: Path) -> None:
    """As A-847 and PC-459 have them, whose lists a preparation makes."""
    (tmp_path / "classes.txt").write_text("0:bank\n1:bank\n2:sky, bank\n")
    cfg = config(f"label_maps:{tmp_path}:{tmp_path}:{tmp_path / 'classes.txt'}")
    settle_training_vocabulary(cfg)
    again = build_training_vocabulary(cfg)
    assert again.names == (("bank",), ("bank",), ("sky", "bank"))
    assert again == Vocabulary.from_file(tmp_path / "classes.txt")


@pytest.mark.parametrize("name", ["words.txt", "words.json", "words.CSV", "words.tsv"])
def test_a_list_without_a_folder_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text('["dog", "cat"]' if name.endswith("json") else "dog\ncat\n")
    assert named_list(name, "DATASETS.VOCABULARY").labels == ["dog", "cat"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("DATASETS.TRAIN", "()"), "DATASETS.TRAIN is empty: .* DATASETS.TRAIN_VOCABULARY"),
        (("DATASETS.TRAIN", "('coco_panoptic:no.json:a:b',)"), "no such file; this data set is"),
        (("DATASETS.TRAIN_VOCABULARY", "classes:[["), "no JSON after classes:"),
        (("DATASETS.TRAIN_VOCABULARY", "classes:[1]"), "lists of names were expected"),
        (("DATASETS.TRAIN_VOCABULARY", "classes:[[1]]"), "names must be text"),
        (("DATASETS.TRAIN_VOCABULARY", "no/words"), "vocabulary no/words: cannot be read"),
    ],
)
def test_training_classes_that_are_not_known(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_training_vocabulary(load_config(None, options))


ROOT = [{"id": 0, "name": "Grass", "isthing": 0}]


def test_two_categories_of_one_name_are_refused_everywhere(tmp_path: Path) -> None:
    name = own_set(tmp_path, ROOT)
    message = r"names 'grass' in more than one class \(category 0 and category 90\): rename one"
    for work in (training_dataset, eval_datasets):
        with pytest.raises(UserError, match=message):
            work(config(name))
    found = [entry.text for entry in check(find_benchmark(name), data_root()) if entry.wrong]
    assert len(found) == 1 and "names 'grass' in more than one class" in found[0]
    truth, folder = str(tmp_path / "panoptic.json"), str(tmp_path / "png")
    with pytest.raises(UserError, match=message.replace("grass", "(?i:grass)").split(r" \(")[0]):
        score_panoptic(truth, folder, truth, folder)
    objects = tmp_path / "instances.json"
    image = {"id": 1, "height": 9, "width": 9, "file_name": "a.png"}
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "A"}]
    objects.write_text(json.dumps({"images": [image], "annotations": [], "categories": categories}))
    with pytest.raises(UserError, match=r"names 'A' in more than one class"):
        score_instances(str(objects), str(objects))


def test_scores_of_classes_of_one_name_stand_apart() -> None:
    """A-847 has such classes."""
    metric = SemanticIoU(names=["bat", "door", "bat"])
    assert {"IoU-bat (0)", "IoU-door", "IoU-bat (2)"} < set(metric.compute())


@pytest.mark.parametrize("name", [None, 5, "", " ", "a\x07", "\ud800"])
def test_names_of_an_annotation_that_are_none(tmp_path: Path, name: object) -> None:
    words = r"panoptic\.json: (the name of categories\[3\]|holds half a character)"
    with pytest.raises(UserError, match=words):
        training_dataset(config(own_set(tmp_path, [{"id": 4, "name": name, "isthing": 1}])))
