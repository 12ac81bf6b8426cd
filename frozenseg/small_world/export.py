"""Write the world to disk: COCO panoptic JSON and PNG, label maps and an instance JSON.

    ROOT/SPLIT/images/00000001.jpg    JPEG, quality 95, no chroma subsampling
    ROOT/SPLIT/panoptic/00000001.png  ids as R + 256 G + 256^2 B, 0 where nothing is annotated
    ROOT/SPLIT/semantic/00000001.png  class ids, 255 where nothing is annotated
    ROOT/SPLIT/panoptic.json, instances.json, world.json (the settings)

Scenes are written in chunks; the entry of a chunk in `.chunks` says that its files are complete. A
run that was killed therefore continues where it stopped. world.json is written first, the other
two JSON files at the end. Pictures that are missing later are written again.
"""

import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from frozenseg.data.benchmarks.small_world_files import WorldFiles, small_world_files
from frozenseg.data.results import write_panoptic_png
from frozenseg.data.rle import encode_masks, rle_area, rle_box
from frozenseg.errors import UserError
from frozenseg.files import atomic_path, read_json, write_json
from frozenseg.small_world.scene import Scene, SceneOptions, make_scene
from frozenseg.small_world.video import CLIP_FRAMES, frame_scene
from frozenseg.small_world.vocabulary import world_vocabulary
from frozenseg.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Split:
    """How a split is made.

    seen_only: whether only seen classes are annotated. scene: a function that makes a scene from a
    seed and its number. stem: a function that returns the name of its files, without extension,
    from its number.
    """

    seen_only: bool
    scene: Callable[[int, int], Scene]
    stem: Callable[[int], str] = lambda index: f"{index + 1:08d}"


# In training scenes, unseen things are rare and not annotated: what COCO's class list leaves out is
# rarer than what it names, and a predicted mask without annotation is trained to be "no object". In
# the test split, all nouns and grounds are equally frequent.
SPLITS = {
    "train": Split(
        seen_only=True,
        scene=lambda seed, n: make_scene(seed, "train", n, SceneOptions(unseen_weight=0.25)),
    ),
    "val": Split(seen_only=False, scene=lambda seed, n: make_scene(seed, "val", n)),
    # Each frame is a scene; the clips show each motion in turn.
    "video_val": Split(
        seen_only=False,
        scene=frame_scene,
        stem=lambda index: "clip_{:04d}_{:06d}".format(*divmod(index, CLIP_FRAMES)),
    ),
}
VERSION = 2  # of the world; in another version, scenes of the same seed look different
CHUNK = 25  # scenes per chunk
UNLABELLED = 255

Progress = Callable[[int], object]  # called with the number of newly written scenes


def export_split(
    root: Path,
    split: str,
    *,
    count: int,
    seed: int,
    processes: int,
    progress: Progress,
    unannotated: Sequence[str] = (),
) -> WorldFiles:
    """Write `count` scenes of a split; the files do not depend on the number of processes.

    unannotated: names of further classes that training splits do not annotate, as if they were
    unseen; a test split annotates all classes. Raises `UserError` if the folder holds another
    world.
    """
    files = small_world_files(root, split)
    settings: dict[str, Any] = {"version": VERSION, "split": split, "count": count, "seed": seed}
    left_out = unannotated if SPLITS[split].seen_only else ()
    if left_out:
        settings["unannotated"] = sorted(set(left_out))
    vocabulary = world_vocabulary(seen_only=SPLITS[split].seen_only, but=left_out)
    missing = _missing(files, split, count)
    if _is_complete(files, settings):
        progress(count - len(missing))
        again = [partial(_export_again, files, split, vocabulary, seed, n) for n in missing]
        _run(again, processes, progress)
        return files
    parts_folder = root / split / ".chunks"
    write_json(files.settings, settings)
    starts = range(0, count, CHUNK)
    parts = [parts_folder / f"{start:08d}.json" for start in starts]
    ready = [
        part.is_file() and not any(start <= n < start + CHUNK for n in missing)
        for start, part in zip(starts, parts, strict=True)
    ]
    progress(
        sum(min(CHUNK, count - s) for s, is_ready in zip(starts, ready, strict=True) if is_ready)
    )
    work = [
        partial(_export_chunk, files, part, vocabulary, split, seed=seed, first=start, count=count)
        for start, part, is_ready in zip(starts, parts, ready, strict=True)
        if not is_ready
    ]
    _run(work, processes, progress)
    _join(files, [read_json(part) for part in parts], vocabulary)
    shutil.rmtree(parts_folder)
    return files


def _is_complete(files: WorldFiles, settings: dict[str, Any]) -> bool:
    """Whether all JSON files are written; raises `UserError` if the folder holds another world."""
    if not files.settings.is_file():
        return False
    earlier = read_json(files.settings)
    if earlier != settings:
        raise UserError(
            f"{files.settings}: the folder holds another world ({earlier}, not {settings}); "
            "choose another --output, or remove the folder"
        )
    return files.annotations.is_file() and files.instances.is_file()


def _missing(files: WorldFiles, split: str, count: int) -> list[int]:
    """Return the numbers of the scenes of which a picture is missing."""
    pictures = ((files.images, ".jpg"), (files.labels, ".png"), (files.semantic_labels, ".png"))
    stems = [{path.stem for path in folder.glob(f"*{ending}")} for folder, ending in pictures]
    whole = set.intersection(*stems)
    return [n for n in range(count) if SPLITS[split].stem(n) not in whole]


def _run(work: Sequence[Callable[[], int]], processes: int, progress: Progress) -> None:
    if processes <= 1 or len(work) <= 1:
        for chunk in work:
            progress(chunk())
        return
    # "spawn": a forked child would inherit the locks of OpenCV's and torch's threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread) as pool:
        pending = [pool.submit(chunk) for chunk in work]
        try:
            for future in pending:
                progress(future.result())
        finally:  # after an error or Ctrl-C, start no further chunks
            pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _export_chunk(
    files: WorldFiles,
    part: Path,
    vocabulary: Vocabulary,
    split: str,
    *,
    seed: int,
    first: int,
    count: int,
) -> int:
    """Write the chunk of scenes from `first` on, then their annotations; return its size.

    vocabulary: the classes that are annotated.
    """
    numbers = range(first, min(first + CHUNK, count))
    write_json(part, [_export_scene(files, split, vocabulary, seed, n) for n in numbers])
    return len(numbers)


def _export_again(
    files: WorldFiles, split: str, vocabulary: Vocabulary, seed: int, index: int
) -> int:
    """Write the pictures of a scene whose annotations are written; return 1, as for a chunk."""
    _export_scene(files, split, vocabulary, seed, index)
    return 1


def _export_scene(
    files: WorldFiles, split: str, vocabulary: Vocabulary, seed: int, index: int
) -> dict[str, Any]:
    """Write the pictures of one scene and return its entries in the JSON files.

    index: the number of the scene.
    """
    way, image_id = SPLITS[split], index + 1
    scene, stem = way.scene(seed, index), way.stem(index)
    category_ids, class_ids = _ids_of_names(vocabulary)
    present = set(np.unique(scene.ids).tolist())  # a frame need not show all regions of its clip
    annotated = [r for r in scene.regions if r.name in class_ids and r.id in present]
    labels = np.full(len(scene.regions) + 1, UNLABELLED, np.uint8)
    labels[[region.id for region in annotated]] = [class_ids[r.name] for r in annotated]
    ids = np.where(labels[scene.ids] == UNLABELLED, 0, scene.ids)
    with atomic_path(files.images / f"{stem}.jpg") as temporary:
        Image.fromarray(scene.image).save(temporary, quality=95, subsampling=0)
    write_panoptic_png(files.labels / f"{stem}.png", ids)
    with atomic_path(files.semantic_labels / f"{stem}.png") as temporary:
        Image.fromarray(labels[scene.ids]).save(temporary)

    height, width = ids.shape
    codes = encode_masks(scene.masks())
    segments, instances = [], []
    for region in annotated:
        code = codes[region.id - 1]
        info = {
            "id": region.id,
            "category_id": category_ids[region.name],
            "area": rle_area(code),
            "bbox": [int(side) for side in rle_box(code)],  # x, y, width, height
            "iscrowd": 0,
        }
        segments.append(info)
        if region.is_thing:
            instances.append({**info, "image_id": image_id, "segmentation": code})
    name = f"{stem}.png"
    return {
        "image": {"id": image_id, "file_name": f"{stem}.jpg", "height": height, "width": width},
        "annotation": {"image_id": image_id, "file_name": name, "segments_info": segments},
        "instances": instances,
    }


def _ids_of_names(vocabulary: Vocabulary) -> tuple[dict[str, int], dict[str, int]]:
    """Map class names to category ids, which are the same in every split, and to class ids."""
    names = vocabulary.labels
    category_ids = {name: number for number, name in enumerate(world_vocabulary().labels, 1)}
    return {name: category_ids[name] for name in names}, {n: i for i, n in enumerate(names)}


def _join(files: WorldFiles, chunks: list[list[dict[str, Any]]], vocabulary: Vocabulary) -> None:
    entries = [entry for chunk in chunks for entry in chunk]
    category_ids, _ = _ids_of_names(vocabulary)
    categories = [
        {"id": number, "name": name, "isthing": int(is_thing)}
        for (name, number), is_thing in zip(category_ids.items(), vocabulary.is_thing, strict=True)
    ]
    objects = [instance for entry in entries for instance in entry["instances"]]
    images = [entry["image"] for entry in entries]
    write_json(
        files.instances,
        {
            "images": images,
            "annotations": [{**row, "id": number} for number, row in enumerate(objects, 1)],
            "categories": [category for category in categories if category["isthing"]],
        },
    )
    write_json(
        files.annotations,
        {
            "images": images,
            "annotations": [entry["annotation"] for entry in entries],
            "categories": categories,
        },
    )
