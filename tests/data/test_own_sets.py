"""Data sets of one's own: named by files, described in YAML, and in ultralytics' form."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from frozenseg.build.evaluator import EvalDataset, build_tasks, eval_datasets
from frozenseg.build.training_data import training_dataset
from frozenseg.build.vocabulary import build_seen_vocabulary, build_vocabulary
from frozenseg.commands import check_dataset, score
from frozenseg.config import load_config
from frozenseg.data.annotations import load_panoptic, load_semantic
from frozenseg.data.benchmarks import find_benchmark, is_data_set, load_records
from frozenseg.data.checks import check
from frozenseg.data.dataset import SegmentationDataset
from frozenseg.data.detection_truth import load_truth, objects_of_records
from frozenseg.data.rle import decode_segmentations, encode_segmentation
from frozenseg.data.transforms import ShortestEdgeResize
from frozenseg.errors import UserError
from frozenseg.text.vocabulary import Vocabulary
from tests.data.tiny import (
    SEGMENTS,
    dataset_name,
    id_map,
    load_instances,
    write_dataset,
    write_json,
)

POLYGON = "1 0.25 0.5 0.75 0.5 0.75 1.0 0.25 1.0\n"


def described(folder: Path, **content: object) -> str:
    """Write `content` as a YAML file; returns the name of its split `train`."""
    (folder / "set.yaml").write_text(yaml.safe_dump(content))
    return f"{folder}/set.yaml:train"


def ultralytics(folder: Path, text: str = POLYGON, **more: object) -> str:
    """Write two pictures of 8 x 12 pixels, the second without labels."""
    (folder / "images" / "deep").mkdir(parents=True)
    (folder / "labels" / "deep").mkdir(parents=True)
    for name in ("deep/1", "2"):
        Image.new("RGB", (12, 8)).save(folder / "images" / f"{name}.png")
    (folder / "labels" / "deep" / "1.txt").write_text(text)
    return described(folder, **{"train": "images", "names": {0: "sky", 1: "dog, hound"}} | more)


# Ultralytics' form


def test_polygons_become_masks(tmp_path, caplog):
    records, categories = load_records(ultralytics(tmp_path, POLYGON + "\n" + POLYGON))
    assert [record.image_id for record in records] == ["2", "1"]  # by path: 2.png, deep/1.png
    assert categories.names == ("sky", "dog") and categories.dataset_ids == (0, 1)
    assert categories.is_thing == (True, True)  # a polygon is an object, though sky is COCO's stuff
    masks, instances = load_instances(records[1])
    expected = np.zeros((8, 12), bool)
    expected[4:8, 3:9] = True
    assert instances.class_ids.tolist() == [1, 1] and (masks == expected).all()
    assert len(load_instances(records[0])[0]) == 0
    assert "1 of 2 images have no label file: no objects" in caplog.text


def test_polygons_are_checked_and_scored(tmp_path):
    name = ultralytics(tmp_path)
    row = find_benchmark(name)
    assert row.targets == "instances" and row.evaluators == ("instances",)
    findings = list(check(row, tmp_path))
    assert not any(finding.wrong for finding in findings)
    assert "classes: 2, from" in " ".join(finding.text for finding in findings)
    truth = load_truth(objects_of_records(*load_records(name)), boxes=False)
    assert [entry["area"] for entry in truth.dataset["annotations"]] == [24.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0.5 0.5 0.2 0.2\n", "line 1: is a box, which has no mask"),
        ("\n1 0.5 0.5 0.2 0.2 0.3 0.4 0.5\n", "line 2: is not a polygon"),
        ("2 0 0 1 0 1 1\n", "line 1: class 2 is not in 0 to 1"),
        ("0.5 0 0 1 0 1 1\n", "line 1: class 0.5 is not in 0 to 1"),
        ("1 0 0 11 0 11 8\n", "line 1: corners must be fractions"),
        ("1 0 0 nan 0 1 1\n", "line 1: corners must be fractions"),
        ("dog 0 0 1 0 1 1\n", "line 1: holds a word that is not a number"),
    ],
)
def test_damaged_label_files(tmp_path, text, message):
    name = ultralytics(tmp_path, text)
    with pytest.raises(UserError, match=rf"1\.txt: {message}"):
        load_records(name)


def test_lists_of_images_and_equal_names(tmp_path):
    name = ultralytics(tmp_path, train=["list.txt", "images"])
    Image.new("RGB", (12, 8)).save(tmp_path / "images" / "1.png")
    (tmp_path / "list.txt").write_text("./images/1.png\nimages/2.png\n")
    records, _ = load_records(name)  # 1.png, 2.png and deep/1.png, each once
    assert [record.image_id for record in records] == ["images/1", "images/2", "images/deep/1"]


def test_links_to_folders_are_told_and_hidden_folders_are_left_out(tmp_path, caplog):
    name = ultralytics(tmp_path / "set")
    images = tmp_path / "set" / "images"
    (images / "deep").rename(tmp_path / "elsewhere")
    (images / "deep").symlink_to(tmp_path / "elsewhere")
    (images / ".hidden").mkdir()
    Image.new("RGB", (12, 8)).save(images / ".hidden" / "3.png")
    (tmp_path / "set" / "labels" / "2.txt").write_text(POLYGON)
    assert [record.image_id for record in load_records(name)[0]] == ["2"]
    assert f"{images}: 1 links to folders in it are not followed" in caplog.text
    name = described(tmp_path / "set", train=["images", "images/deep"], names=["sky", "dog"])
    assert [record.image_id for record in load_records(name)[0]] == ["2", "1"]


def test_an_image_is_no_list_of_images(tmp_path):
    name = ultralytics(tmp_path, train=["images/2.png"])
    with pytest.raises(UserError, match=r"images/2\.png: an image; name its folder, or a text"):
        load_records(name)


def test_folders_as_roboflow_and_ultralytics_write_them(tmp_path, monkeypatch):
    name = ultralytics(tmp_path / "own", train="../images", roboflow={"project": "p"}, nc=2)
    assert len(load_records(name)[0]) == 2
    monkeypatch.setenv(
        "DETECTRON2_DATASETS", str(tmp_path)
    )  # the folder beside the file comes first
    elsewhere = described(tmp_path, path="own", train="images", names=["sky", "dog"])
    (tmp_path / "far").mkdir()
    (tmp_path / "set.yaml").rename(tmp_path / "far" / "set.yaml")
    assert len(load_records(elsewhere.replace("set.yaml", "far/set.yaml"))[0]) == 2


# Our YAML


def test_a_description_is_the_same_data_set_as_its_files(tmp_path):
    write_dataset(tmp_path, [(40, 60), (33, 21)])
    files = {"images": "images", "annotations": "panoptic.json", "labels": "png"}
    name = described(tmp_path, train=files, val=files)
    assert len(load_records(name)[0]) == 2
    assert find_benchmark(name) == find_benchmark(dataset_name(tmp_path))
    assert is_data_set(name) and is_data_set("own.yml") and not is_data_set("own.json")
    with pytest.raises(UserError, match=r"set.yaml: name a split .*set.yaml:train, .*set.yaml:val"):
        find_benchmark(f"{tmp_path}/set.yaml")
    described(tmp_path, train=files)
    assert find_benchmark(f"{tmp_path}/set.yaml") == find_benchmark(name)  # it has this one alone


def test_names_and_things_of_a_description(tmp_path):
    """A list replaces the names, and `things` the flags, of an annotation that has none, too."""
    content = write_dataset(tmp_path, [(40, 60)])
    plain = [{"id": entry["id"], "name": entry["name"]} for entry in content["categories"]]
    (tmp_path / "panoptic.json").write_text(json.dumps(content | {"categories": plain}))
    files = {"images": "images", "annotations": "panoptic.json", "labels": "png"}
    with pytest.raises(UserError, match="has no 'isthing'"):
        load_records(described(tmp_path, train=files))
    names = ["grass, meadow", "dog, hound", "cat"]
    name = described(tmp_path, train=files, names=names, things="hound")
    _, categories = load_records(name)
    assert categories.names == ("dog", "cat", "grass")
    assert categories.is_thing == (True, False, False)
    cfg = load_config(None, {"DATASETS.TRAIN": (name,), "DATASETS.TEST": (name,)})
    words = build_vocabulary(cfg, name, categories)
    assert words.names == (("dog", "hound"), ("cat",), ("grass", "meadow"))
    assert words.is_thing == (True, False, False)
    assert all(words.seen(build_seen_vocabulary(cfg, name)))
    (tmp_path / "classes.tsv").write_text("name\tsynonyms\ngrass\tmeadow\ndog\thound\ncat\t\n")
    table = described(tmp_path, train=files, names="classes.tsv", things="hound")
    assert build_vocabulary(cfg, table, categories) == words


def test_label_maps_of_a_description(tmp_path):
    for folder, mode in (("labels", "L"), ("images", "RGB")):
        (tmp_path / folder).mkdir()
        Image.new(mode, (20, 12), 7 if mode == "L" else 0).save(tmp_path / folder / "1.png")
    (tmp_path / "classes.json").write_text('{"names": ["car", "sky"]}')
    files = {"images": "images", "labels": "labels", "ignore": 7}
    records, categories = load_records(described(tmp_path, train=files, names="classes.json"))
    assert categories.names == ("car", "sky") and categories.is_thing == (True, False)
    assert (load_semantic(records[0]) == -1).all()
    name = described(tmp_path, train=files | {"ignore": 1}, names="classes.json")
    with pytest.raises(UserError, match=r"labels: 1 cannot mark unlabelled .* a class \(0-1\)"):
        load_records(name)
    assert "1 cannot mark" in " ".join(f.text for f in check(find_benchmark(name), tmp_path))
    with pytest.raises(UserError, match="label maps hold only numbers; list the classes"):
        find_benchmark(described(tmp_path, train=files))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "name a split that the file has: it has none"),
        ({"trian": "images", "names": ["a"]}, "unknown key 'trian'; did you mean train"),
        ({"train": "images"}, "list the classes as 'names'"),
        ({"train": "images", "names": ["a", "a"]}, "names: .*'a'"),
        ({"train": "images", "names": ["a"], "nc": 3}, "nc is 3, but 'names' has 1"),
        ({"train": 3, "names": ["a"]}, "train is 3: text was expected"),
        ({"train": "images", "names": ["a"], "tasks": "panoptic"}, "'panoptic' is not possible"),
        ({"train": {"images": "i"}}, "needs 'images', and 'annotations' or 'labels'"),
        ({"train": {"images": "i", "label": "l"}}, "unknown key 'label'; did you mean labels"),
        ({"train": {"images": "i", "annotations": "a", "instances": "b"}}, "describe two data"),
        (
            {"train": {"images": "i", "annotations": "a", "labels": "l", "semantic_labels": "m"}},
            "train: semantic_labels: .*m: no such folder; correct it",
        ),
        ({"train": {"images": "i", "labels": "l", "ignore": -1}, "names": ["a"]}, "'ignore' is -1"),
        ({"train": {"images": "i", "annotations": "a"}}, "no such file or folder; correct it in"),
        ({"train": "images", "names": "nothing"}, "set.yaml: names: vocabulary nothing: not in"),
        ({"train": "images", "names": ""}, "set.yaml: names: the name of a list is '': text was"),
    ],
)  # fmt: skip
def test_wrong_descriptions(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        load_records(described(tmp_path, **content))
    assert "\n" not in str(caught.value)


def test_a_description_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"data set .*gone.yaml: no such file"):
        load_records(f"{tmp_path}/gone.yaml:train")


# What a truth can be scored for


def test_objects_of_a_panoptic_annotation_are_scored(tmp_path):
    """The AP of its own things is 1; a crowd excuses, and stuff is no object."""
    write_dataset(tmp_path, [(40, 60), (33, 21)])
    name = dataset_name(tmp_path)
    row = find_benchmark(name)
    assert row.evaluators == ("panoptic", "semantic", "instances")
    records, categories = load_records(name)
    content = objects_of_records(records, categories)
    assert [entry["name"] for entry in content["categories"]] == ["dog", "cat"]
    assert [entry["iscrowd"] for entry in content["annotations"]] == [0, 0, 1] * 2
    codes = [entry["segmentation"] for entry in content["annotations"][:3]]
    ids = id_map(40, 60)
    expected = [ids == number for number in list(SEGMENTS)[:3]]
    assert (decode_segmentations(codes, 40, 60) == expected).all()
    dataset = SegmentationDataset(
        records=records, categories=categories, transform=ShortestEdgeResize(), targets=None
    )
    words = Vocabulary.of_categories(categories.names, categories.is_thing, (3, 7, 90), "test")
    tasks = build_tasks(EvalDataset(name, row, dataset, words, words, row.evaluators))
    assert {*tasks} == {"panoptic", "semantic", "instances", "instances_boxes"}
    metric = tasks["instances"].metric
    for record in records:
        ids, segments = load_panoptic(record)
        kept = np.flatnonzero((segments.class_ids < 2) & ~segments.is_crowd)
        metric.update(
            record.image_id,
            ids == segments.ids[kept, None, None],
            None,
            np.ones(len(kept)),
            [categories.dataset_ids[class_id] for class_id in segments.class_ids[kept]],
        )
    assert metric.compute()["AP"] == 1


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        (
            "images",
            lambda rows: rows[1:],
            r"objects.json: lacks image 1\d* of .*/panoptic.json \(1 in",
        ),
        ("categories", lambda rows: rows[1:], "lacks category 3 of .*, a thing"),
        (
            "categories",
            lambda rows: [*rows, {"id": 8, "name": "cow"}],
            "has category 8, which .* lacks",
        ),
    ],
)
def test_objects_of_another_annotation_are_refused_at_once(tmp_path, key, change, message):
    """A prediction would show it, perhaps that of the last image."""
    write_dataset(tmp_path, [(40, 60), (30, 50)])
    truth = objects_of_records(*load_records(dataset_name(tmp_path)))
    truth |= {"annotations": [], key: change(truth[key])}
    (tmp_path / "objects.json").write_text(json.dumps(truth))
    files = {"images": "images", "annotations": "panoptic.json", "labels": "png"}
    name = described(tmp_path, train={**files, "instances": "objects.json"})
    cfg = load_config(None, {"DATASETS.TRAIN": (name,), "DATASETS.TEST": (name,)})
    (entry,) = eval_datasets(cfg)
    with pytest.raises(UserError, match=message):
        build_tasks(entry)


def test_tasks_of_a_description_choose_what_is_scored(tmp_path):
    name = ultralytics(tmp_path, tasks=["semantic", "instances"])
    row = find_benchmark(name)
    assert row.evaluators == ("instances", "semantic") and row.targets == "instances"
    records, _ = load_records(name)
    assert np.unique(load_semantic(records[1])).tolist() == [-2, 1]  # -2: labelled as no class


def test_the_next_step_is_one_for_data_of_ones_own(tmp_path, capsys):
    name = ultralytics(tmp_path / "polygons")
    assert check_dataset.main([name]) == 0
    printed = capsys.readouterr().out
    assert f"frozenseg view_samples --config-file small/frozenseg --dataset {name} " in printed
    assert "RELEASED" not in printed and "convnext" not in printed
    write_dataset(tmp_path / "own", [(40, 60)])
    (tmp_path / "own" / "png" / "1.png").unlink()
    name = dataset_name(tmp_path / "own")
    assert check_dataset.main([name]) == 1
    printed = capsys.readouterr().out
    assert f"correct the problems above, or try frozenseg check_dataset {name} --fix" in printed
    (tmp_path / "own" / "panoptic.json").unlink()  # there is nothing to mend
    assert check_dataset.main([name]) == 1
    printed = capsys.readouterr().out
    assert "no annotation" in printed and "--fix" not in printed


@pytest.mark.parametrize("form", ["coco_panoptic:{0}/panoptic.json:{0}/png", "images:{0}/list.txt"])
def test_the_next_step_can_be_given_to_a_shell_as_it_is(form, tmp_path, capsys):
    folder = tmp_path / 'Zoë\'s "best" (set), $1'
    write_dataset(folder, [(40, 60)])
    (folder / "list.txt").write_text("thing\nstuff\n")
    name = f"{form.format(folder)}:{folder}/images"
    assert check_dataset.main([name]) == 0
    command = capsys.readouterr().out.partition("frozenseg ")[2].partition(" (docs")[0]
    words = shlex.split(command.partition(";")[0])
    if form.startswith("images"):
        config = load_config(None, ["DATASETS.TEST", words[words.index("DATASETS.TEST") + 1]])
        assert config.DATASETS.TEST == (name,)
    else:
        assert words[words.index("--dataset") + 1] == name


def test_images_without_annotation_are_decoded_and_never_trained_on(tmp_path, capsys):
    write_dataset(tmp_path, [(40, 60), (33, 21)])
    name = f"images:{tmp_path}/panoptic.json:{tmp_path}/images"
    assert check_dataset.main([name]) == 0
    printed = capsys.readouterr().out
    assert "ok:      2 images decoded" in printed and "view_samples" not in printed
    assert "TEST.SAVE_PREDICTIONS True DATASETS.TEST" in printed
    picture = tmp_path / "images" / "2.png"
    picture.write_bytes(picture.read_bytes()[:-40])
    assert check_dataset.main([name]) == 1
    printed = capsys.readouterr().out
    assert "images/2.png: damaged image" in printed and "--fix" not in printed


def test_the_suffix_of_a_list_of_images_may_be_large(tmp_path):
    content = write_dataset(tmp_path, [(40, 60)])
    listed = {key: content[key] for key in ("images", "categories")}
    (tmp_path / "LIST.JSON").write_text(json.dumps(listed))
    records, categories = load_records(f"images:{tmp_path}/LIST.JSON:{tmp_path}/images")
    assert len(records) == 1 and len(categories) == len(content["categories"])


def test_sets_that_are_trained_on_together_are_annotated_alike(tmp_path):
    """Of other classes they are refused anyway; objects alone may have those of a panoptic set."""
    content = write_dataset(tmp_path, [(40, 60)])
    # Not in place: all tests share the categories.
    content["categories"] = [category | {"isthing": 1} for category in content["categories"]]
    write_json(tmp_path, content)
    entry = {"id": 1, "image_id": 1, "category_id": 7, "segmentation": [[2, 2, 30, 2, 30, 30]]}
    (tmp_path / "objects.json").write_text(json.dumps(content | {"annotations": [entry]}))
    names = [dataset_name(tmp_path), f"coco_instances:{tmp_path}/objects.json:{tmp_path}/images"]
    for first, second, said in (
        (*names, "is annotated as instances, coco_panoptic:"),
        (*names[::-1], "is annotated as panoptic, coco_instances:"),
    ):
        with pytest.raises(UserError, match=f"DATASETS.TRAIN: {second} {said}.*of one kind"):
            training_dataset(load_config(None, {"DATASETS.TRAIN": (first, second)}))


# Names that nobody has


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "zzz",
            "zzz: no such dataset; frozenseg check_dataset lists them. Name one of your own as",
        ),
        ("coco_2017_val_panoptc", "no such dataset; did you mean coco_2017_val_panoptic"),
        ("coco_instance:a:b", "did you mean coco_instances:JSON:IMAGE_DIR"),
        ("label_map:a:b:c", "did you mean label_maps:IMAGE_DIR:LABEL_DIR:CLASSES"),
    ],
)
def test_messages_for_unknown_names_are_short(name, message):
    with pytest.raises(UserError, match=message) as caught:
        find_benchmark(name)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_predictions_are_scored_against_a_named_set(tmp_path, capsys):
    """Against objects that no JSON holds, and without the folder of PNGs, which the name tells."""
    name = ultralytics(tmp_path)
    truth = objects_of_records(*load_records(name))
    code = encode_segmentation(truth["annotations"][0]["segmentation"], 8, 12)
    found = {"image_id": "1", "category_id": 1, "score": 0.5, "segmentation": code}
    (tmp_path / "found.json").write_text(json.dumps([found]))
    assert score.main(["instances", "--gt", name, "--pred", str(tmp_path / "found.json")]) == 0
    assert capsys.readouterr().out.split()[:2] == ["AP", "1.0000"]
    write_dataset(tmp_path / "own", [(40, 60)])
    name, files = dataset_name(tmp_path / "own"), tmp_path / "own"
    found = ["--pred", str(files / "panoptic.json"), "--pred-dir", str(files / "png")]
    assert score.main(["panoptic", "--gt", name, *found]) == 0
    with pytest.raises(UserError, match="--gt-dir: give the folder"):
        score.main(["panoptic", "--gt", str(files / "panoptic.json"), *found])
    maps = ["semantic", "--pred-dir", str(files / "png")]
    for more, message in (
        ([], "by --gt-dir and --classes, or a data set by --gt"),
        (["--gt", name, "--gt-dir", "a"], "the data set defines"),
        (["--gt", "coco_instances:a:b"], "has no label maps"),
    ):
        with pytest.raises(UserError, match=message):
            score.main([*maps, *more])
    with pytest.raises(UserError, match="has no panoptic annotation"):
        score.main(["panoptic", "--gt", "coco_instances:a:b", *found])
    with pytest.raises(UserError, match="the data set defines its PNGs; give no --gt-dir"):
        score.main(["panoptic", "--gt", name, "--gt-dir", "a", *found])
    unlabelled = f"images:{files / 'panoptic.json'}:{files / 'images'}"
    for argv in (["panoptic", *found], ["instances", *found[:2]], maps):
        with pytest.raises(UserError, match="has no annotation to score"):
            score.main([*argv, "--gt", unlabelled])
    for task, more in (("panoptic", found), ("instances", found[:2])):
        with pytest.raises(UserError, match=r"check_dataset small_world_val says"):
            score.main([task, "--gt", "small_world_val", *more])


def test_label_maps_without_a_class_are_not_scored(tmp_path):
    """As neither the evaluation of a model nor the scores of two folders are."""
    for folder, value in (("images", 0), ("truth", 255), ("found", 0)):
        (tmp_path / folder).mkdir()
        Image.new("L", (9, 8), value).save(tmp_path / folder / "a.png")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    name = f"label_maps:{tmp_path}/images:{tmp_path}/truth:{tmp_path}/classes.txt"
    with pytest.raises(UserError, match="none of its 1 images has an object"):
        score.main(["semantic", "--gt", name, "--pred-dir", str(tmp_path / "found")])


def test_things_of_a_description_are_those_of_the_score(tmp_path):
    """As in the evaluation of a model, also where the annotation tells none."""
    content = write_dataset(tmp_path, [(40, 60)])
    plain = [{"id": entry["id"], "name": entry["name"]} for entry in content["categories"]]
    found = ["--pred", str(tmp_path / "panoptic.json"), "--pred-dir", str(tmp_path / "png")]
    files = {"images": "images", "annotations": "panoptic.json", "labels": "png"}
    name = described(tmp_path, train=files, things=["grass"])
    out = ["--json", str(tmp_path / "scores.json")]
    for categories in (content["categories"], plain):
        (tmp_path / "panoptic.json").write_text(json.dumps({**content, "categories": categories}))
        assert score.main(["panoptic", "--gt", name, *found, *out]) == 0
        scores = json.loads((tmp_path / "scores.json").read_text())
        assert (scores["Things"]["n"], scores["Stuff"]["n"]) == (1, 2)


def test_objects_are_scored_pixel_by_pixel(tmp_path):
    """Pixels without an object count against every class; dots in names are no suffixes."""
    name = ultralytics(tmp_path, tasks=["semantic"])
    records, categories = load_records(name)
    for folder, label in (("right", 1), ("everywhere", 1)):
        for record in records:
            truth = load_semantic(record)
            found = np.where(truth == label, label, 255)
            if folder == "everywhere":
                found[:] = label
            path = tmp_path / folder / f"{Path(record.image_path).stem}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(found.astype(np.uint8)).save(path)
    scores = {}
    for folder in ("right", "everywhere"):
        out = ["--pred-dir", str(tmp_path / folder), "--json", str(tmp_path / "scores.json")]
        assert score.main(["semantic", "--gt", name, *out]) == 0
        scores[folder] = json.loads((tmp_path / "scores.json").read_text())["mIoU"]
    objects = (load_semantic(records[1]) == 1).sum()
    assert scores == {"right": 100, "everywhere": pytest.approx(100 * objects / (2 * 8 * 12))}

    dotted = {p: p.with_name(f"{p.stem}.rf.1.png") for p in (tmp_path / "images").rglob("*.png")}
    for path, other in dotted.items():
        path.rename(other)
    (tmp_path / "labels" / "deep" / "1.txt").rename(tmp_path / "labels" / "deep" / "1.rf.1.txt")
    for path in (tmp_path / "right").iterdir():
        path.rename(path.with_name(f"{path.stem}.rf.1.png"))
    assert score.main(["semantic", "--gt", name, "--pred-dir", str(tmp_path / "right")]) == 0


def test_predictions_with_other_ids_are_refused(tmp_path):
    """As those of the demo, which numbers classes by the vocabulary and images as they come."""
    name = ultralytics(tmp_path)
    truth = objects_of_records(*load_records(name))
    rows = [{**row, "score": 1.0} for row in truth["annotations"]]
    rows[0]["segmentation"] = encode_segmentation(rows[0]["segmentation"], 8, 12)
    found = tmp_path / "found.json"
    for change, message in (
        ({}, None),
        ({"categories": [{"id": 1, "name": "sky"}, {"id": 0, "name": "dog"}]}, "category 0 is"),
        ({"images": [{**i, "id": {"1": "2", "2": "1"}[i["id"]]} for i in truth["images"]]}, "for"),
    ):
        found.write_text(json.dumps({**truth, "annotations": rows, **change}))
        argv = ["instances", "--gt", name, "--pred", str(found)]
        if message is None:
            assert score.main(argv) == 0
        else:
            with pytest.raises(UserError, match=message):
                score.main(argv)


def test_both_metrics_of_instances_keep_their_scores(tmp_path):
    content = write_dataset(tmp_path / "own", [(40, 60)])
    rows = [
        {"id": 1, "image_id": content["images"][0]["id"], "category_id": 3, "iscrowd": 0,
         "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]], "area": 400, "bbox": [5, 5, 20, 20]}
    ]  # fmt: skip
    images = [
        {**image, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        for image in content["images"]
    ]
    categories = [{**category, "frequency": "f"} for category in content["categories"]]
    files = {"images": images, "categories": categories, "annotations": rows}
    (tmp_path / "own.json").write_text(json.dumps(files))
    name = described(
        tmp_path, train={"images": "own/images", "annotations": "own.json"},
        tasks=["instances", "lvis"],
    )  # fmt: skip
    row = find_benchmark(name)
    records, categories = load_records(name)
    dataset = SegmentationDataset(
        records=records, categories=categories, transform=ShortestEdgeResize(), targets=None
    )
    words = Vocabulary.of_categories(
        categories.names, categories.is_thing, categories.dataset_ids, "test"
    )
    tasks = build_tasks(EvalDataset(name, row, dataset, words, words, row.evaluators))
    names = [name for task in tasks.values() for name in task.names]
    assert len(names) == len(set(names)) and {"AP", "LVIS AP", "LVIS box AP"} <= set(names)
