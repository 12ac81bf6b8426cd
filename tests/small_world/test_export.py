"""The exported world, as the ordinary readers and pycocotools read it, against the scenes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from frozenseg.data.annotations import LABELS
from frozenseg.data.benchmarks import load_records
from frozenseg.data.dataset import cut_masks
from frozenseg.data.readers import read_instances, read_panoptic, read_semantic
from frozenseg.errors import UserError
from frozenseg.small_world.commands.make_small_world import dataset_name, main
from frozenseg.small_world.export import CHUNK, SPLITS, WorldFiles, export_split
from frozenseg.small_world.pictures import DEMO_SCENES, demo_scenes
from frozenseg.small_world.scene import make_scene
from frozenseg.small_world.vocabulary import world_vocabulary
from frozenseg.text.vocabulary import Vocabulary

COUNT = 8
ROOT = Path(__file__).resolve().parents[2]


def export(root: Path, split: str, count: int = COUNT, processes: int = 1) -> WorldFiles:
    return export_split(
        root, split, count=count, seed=0, processes=processes, progress=lambda ready: None
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, WorldFiles]:
    root = tmp_path_factory.mktemp("world")
    return {split: export(root, split) for split in ("train", "val")}


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("split", ["train", "val"])
def test_readers_find_the_scenes(world: dict[str, WorldFiles], split: str) -> None:
    records, categories = load_records(dataset_name(world[split]))
    vocabulary = world_vocabulary(seen_only=split == "train")
    assert categories.names == tuple(vocabulary.labels)
    assert categories.is_thing == vocabulary.is_thing
    assert len(records) == COUNT
    for index, record in enumerate(records):
        scene = SPLITS[split].scene(0, index)
        image = np.asarray(Image.open(record.image_path)).astype(int)
        assert np.abs(image - scene.image).mean() < 4  # JPEG
        targets = cut_masks(LABELS["panoptic"](record), keep_empty=False)
        known = [region for region in scene.regions if region.name in categories.names]
        truth = {
            (categories.names.index(region.name), (scene.ids == region.id).tobytes())
            for region in known
        }
        found = zip(targets.class_ids.tolist(), targets.masks.numpy(), strict=True)
        assert {(class_id, mask.tobytes()) for class_id, mask in found} == truth


def test_training_leaves_unseen_regions_without_annotation(world: dict[str, WorldFiles]) -> None:
    seen = set(world_vocabulary(seen_only=True).labels)
    unseen = set(world_vocabulary().labels) - seen
    annotated, void, hidden = 0, 0, 0
    for index in range(COUNT):
        scene = SPLITS["train"].scene(0, index)
        labels = np.asarray(Image.open(world["train"].semantic_labels / f"{index + 1:08d}.png"))
        for region in scene.regions:
            values = set(labels[scene.ids == region.id].tolist())
            assert (values == {255}) == (region.name in unseen)
            hidden += region.name in unseen
        void += int((labels == 255).sum())
        annotated += int((labels != 255).sum())
    assert hidden > 3 and annotated > void > 0
    everything = np.asarray(Image.open(world["val"].semantic_labels / "00000001.png"))
    assert (everything != 255).all()


def test_classes_left_without_annotation(world: dict[str, WorldFiles], tmp_path: Path) -> None:
    """The same scenes and the same category ids; what the named classes cover is void."""
    names = ["grass", "star"]
    fewer = export_split(
        *(tmp_path, "train"),
        count=COUNT,
        seed=0,
        processes=1,
        progress=lambda ready: None,
        unannotated=names,
    )
    before, after = (json.loads(w.annotations.read_text()) for w in (world["train"], fewer))
    dropped = {row["id"] for row in before["categories"] if row["name"] in names}
    kept = [row for row in before["categories"] if row["id"] not in dropped]
    assert len(dropped) == 2 and after["categories"] == kept
    gone = 0
    for one, other in zip(before["annotations"], after["annotations"], strict=True):
        rows = [row for row in one["segments_info"] if row["category_id"] not in dropped]
        assert other["segments_info"] == rows
        ids = [
            np.asarray(Image.open(w.labels / one["file_name"]))[..., 0]
            for w in (world["train"], fewer)
        ]
        left = np.isin(ids[0], [row["id"] for row in one["segments_info"] if row not in rows])
        assert np.array_equal(ids[1], np.where(left, 0, ids[0]))
        gone += left.sum()
    assert gone > 1000
    assert (fewer.images / "00000001.jpg").read_bytes() == (
        world["train"].images / "00000001.jpg"
    ).read_bytes()
    with pytest.raises(UserError, match="another world"):
        export(tmp_path, "train")
    with pytest.raises(UserError, match="--unannotated gras: no such class; did you mean grass?"):
        main(["--output", str(tmp_path / "other"), "--unannotated", "gras"])


def test_a_test_split_keeps_the_truth_of_classes_without_annotation_in_training(
    world: dict[str, WorldFiles], tmp_path: Path
) -> None:
    few = ["--count", "2", "--processes", "1"]
    main(["--output", str(tmp_path), *few, "--unannotated", "grass", "star"])
    categories = {
        split: {row["name"] for row in json.loads(files.read_text())["categories"]}
        for split in ("train", "val")
        for files in [tmp_path / split / "panoptic.json"]
    }
    assert categories["val"] - categories["train"] >= {"grass", "star"}
    # The following are no other worlds.
    main(["--output", str(tmp_path), "--split", "val", *few])
    main(["--output", str(tmp_path), *few, "--unannotated", "star", "grass", "star"])


def test_semantic_maps_are_what_panoptic_ones_say(world: dict[str, WorldFiles]) -> None:
    files = world["train"]
    panoptic, categories = read_panoptic(files.annotations, files.labels, files.images)
    semantic, _ = read_semantic(files.images, files.semantic_labels, categories)
    for first, second in zip(panoptic, semantic, strict=True):
        one = cut_masks(LABELS["panoptic"](first), keep_empty=False)
        two = cut_masks(LABELS["semantic"](second), keep_empty=False)
        for class_id, mask in zip(two.class_ids, two.masks, strict=True):
            together = one.masks[one.class_ids == class_id].any(dim=0)
            assert bool((together == mask).all())
        assert set(one.class_ids.tolist()) == set(two.class_ids.tolist())


def test_instances_are_cocos(world: dict[str, WorldFiles]) -> None:
    files = world["val"]
    coco = COCO(str(files.instances))
    panoptic = json.loads(files.annotations.read_text())
    segments = {
        (entry["image_id"], info["id"]): info
        for entry in panoptic["annotations"]
        for info in entry["segments_info"]
    }
    things = {c["id"]: c["name"] for c in panoptic["categories"] if c["isthing"]}
    for index in range(COUNT):
        scene = make_scene(0, "val", index)
        rows = coco.loadAnns(coco.getAnnIds(imgIds=[index + 1]))
        assert [things[row["category_id"]] for row in rows] == [t.name for t in scene.things]
        for row, region in zip(rows, scene.things, strict=True):
            mask = coco.annToMask(row).astype(bool)
            np.testing.assert_array_equal(mask, scene.ids == region.id)
            y, x = np.nonzero(mask)
            box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            assert row["bbox"] == box and row["area"] == mask.sum() and row["iscrowd"] == 0
            info = segments[index + 1, region.id]
            assert (info["bbox"], info["area"]) == (row["bbox"], row["area"])
    records, categories = read_instances(files.instances, files.images)
    assert len(records) == COUNT and all(categories.is_thing)


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    count = CHUNK + 2
    whole = export(tmp_path / "whole", "val", count)

    def stop(ready: int) -> None:
        if ready:
            raise KeyboardInterrupt

    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        export_split(stopped, "val", count=count, seed=0, processes=1, progress=stop)
    assert not (stopped / "val" / "panoptic.json").exists()
    first = stopped / "val" / "images" / "00000001.jpg"
    before = first.stat().st_mtime_ns
    reported: list[int] = []
    export_split(stopped, "val", count=count, seed=0, processes=1, progress=reported.append)
    assert reported == [CHUNK, 2] and first.stat().st_mtime_ns == before
    assert contents(stopped / "val") == contents(whole.annotations.parent)


def test_pictures_that_are_missing_are_made_again(tmp_path: Path) -> None:
    """And no other file is written."""
    files = export(tmp_path, "val", count=3)
    before = contents(tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    lost = [files.images / "00000002.jpg", files.labels / "00000001.png"]
    lost.append(files.semantic_labels / "00000001.png")
    for path in lost:
        path.unlink()
    reported: list[int] = []
    export_split(tmp_path, "val", count=3, seed=0, processes=1, progress=reported.append)
    assert reported == [1, 1, 1] and contents(tmp_path) == before
    kept = [path for path, stamp in stamps.items() if path.stat().st_mtime_ns == stamp]
    assert files.annotations in kept and files.images / "00000003.jpg" in kept


@pytest.mark.slow
def test_the_files_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    count = CHUNK + 5
    export(tmp_path / "one", "train", count)
    export(tmp_path / "two", "train", count, processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_another_world_in_the_same_place_is_refused(world: dict[str, WorldFiles]) -> None:
    root = world["val"].images.parents[1]
    with pytest.raises(UserError, match="holds another world"):
        export(root, "val", COUNT + 1)
    assert export(root, "val") == world["val"]  # the same world: nothing to do


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do"),
        (["--output", "x", "--count", "0"], "--count 0"),
        (["--output", "x", "--seed", "-1"], "--seed -1"),
        (["--output", "x", "--processes", "0"], "--processes 0"),
        (["--sheet", "x.gif"], "x.gif"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_an_output_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        main(["--output", str(tmp_path / "file"), "--count", "1", "--processes", "1"])


def test_the_demo_shows_the_world_of_today() -> None:
    """`demo/` was written by this code: `frozenseg make_small_world --demo demo`."""
    vocabulary = world_vocabulary()
    assert Vocabulary.from_file(ROOT / "demo" / "vocabulary.txt") == vocabulary
    scenes = demo_scenes()
    assert len(scenes) == len(DEMO_SCENES)
    for number, scene in enumerate(scenes, 1):
        image = np.asarray(Image.open(ROOT / "demo" / "images" / f"scene_{number}.png"))
        assert image.shape == scene.image.shape
        assert np.abs(image.astype(int) - scene.image).mean() < 1  # OpenCV builds round differently


def test_a_vocabulary_file_reads_back(tmp_path: Path) -> None:
    for seen_only in (False, True):
        path = tmp_path / f"{seen_only}.txt"
        path.write_text(world_vocabulary(seen_only=seen_only).text())
        assert Vocabulary.from_file(path) == world_vocabulary(seen_only=seen_only)
