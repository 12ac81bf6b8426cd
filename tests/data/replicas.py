"""Small replicas of the published files of each dataset: a few generated images of two sizes.

Every image is a grid of square blocks, each of one class, one object or nothing. Values are drawn
so that the first and the last class, and unlabelled blocks, are always among them: that is where
shifted labels show.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_codec
from scipy import io

from frozenseg.data.prepare import (
    ade20k,
    ade20k_full,
    cityscapes,
    coco,
    fss1000,
    pascal_context,
)
from frozenseg.data.prepare.options import PreparationOptions
from frozenseg.files import write_json
from frozenseg.small_world.export import export_split
from frozenseg.text.vocabulary import Vocabulary
from tests.data.tiny import encode

SIZES = ((48, 64), (64, 48))  # (height, width)
BLOCK = 16  # Cityscapes counts no object of less than 100 pixels
BLOCKS = 12


def grid(values: Sequence[int], number: int) -> np.ndarray:
    """(H, W) int64 of image `number`: one value for each of its blocks, row by row."""
    height, width = SIZES[number % len(SIZES)]
    blocks = np.array(values, dtype=np.int64).reshape(height // BLOCK, width // BLOCK)
    return blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)


def draw(first: int, last: int, nothing: int, number: int) -> list[int]:
    """A value for each block: both ends and `nothing` are among them."""
    drawn = np.random.default_rng(number).integers(first, last + 1, BLOCKS - 3)
    return [first, nothing, last, *drawn.tolist()]


def save(path: Path, pixels: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette:
        picture.putpalette([i % 256 for i in range(768)])
    picture.save(path)


def save_image(path: Path, number: int) -> None:
    height, width = SIZES[number % len(SIZES)]
    noise = np.random.default_rng(number).integers(0, 256, (height, width, 3))
    save(path, noise.astype(np.uint8))


def numbers() -> range:
    return range(1, len(SIZES) + 1)


def write_ade20k(root: Path) -> None:
    folder = root / "ADEChallengeData2016"
    for number in numbers():
        stem = f"ADE_val_{number:08d}"
        save_image(folder / "images" / "validation" / f"{stem}.jpg", number)
        labels = draw(1, 150, 0, number)  # 1 is stuff, 150 a thing
        things = {value + 1: place for place, value in enumerate(ade20k.THINGS, start=1)}
        category = [things.get(label, 0) for label in labels]
        objects = [place if thing else 0 for place, thing in enumerate(category, start=1)]
        maps = [grid(values, number) for values in (labels, category, objects)]
        save(folder / "annotations" / "validation" / f"{stem}.png", maps[0].astype(np.uint8))
        colours = np.stack([maps[1], maps[2], maps[2] * 0], -1).astype(np.uint8)
        save(folder / "annotations_instance" / "validation" / f"{stem}.png", colours)


def write_ade20k_full(root: Path) -> None:
    folder = root / "ADE20K_2021_17_01" / "images" / "ADE" / "validation" / "urban" / "street"
    ids = ade20k_full.scored_ids()
    for number in numbers():
        stem = f"ADE_val_{number:08d}"
        save_image(folder / f"{stem}.jpg", number)
        places = draw(0, 846, -1, number)
        values = grid([0 if place < 0 else ids[place] for place in places], number)
        values[:4, :4] = 3000  # an object that is not scored
        colours = np.stack([values // 256 * 10, values % 256, values * 0], -1).astype(np.uint8)
        save(folder / f"{stem}_seg.png", colours)
        save(folder / stem / f"instance_000_{stem}_seg.png", colours)  # never to be looked at
        objects = [{"name_ndx": i, "name": f"object {i}"} for i in ids[number - 1 :: len(SIZES)]]
        write_json(folder / f"{stem}.json", {"annotation": {"object": objects}})


def write_pascal_voc(root: Path) -> None:
    """A class of each fold of PASCAL-5i, and of each transfer from COCO-20i, is in every image."""
    folder = root / "VOCdevkit" / "VOC2012"
    for year, name in ((2007, "val"), (2008, "train")):
        stems = [f"{year}_{number:06d}" for number in numbers()]
        for number, stem in zip(numbers(), stems, strict=True):
            save_image(folder / "JPEGImages" / f"{stem}.jpg", number)
            values = [1, 255, 20, 6, 11, 8, *draw(1, 20, 255, number)[3:8], 0]
            labels = grid(values, number).astype(np.uint8)
            save(folder / "SegmentationClass" / f"{stem}.png", labels, palette=True)
            save(folder / "SegmentationClassAug" / f"{stem}.png", labels)  # validation is in it too
        write_list(folder / "ImageSets" / "Segmentation" / f"{name}.txt", stems)


def write_coco_2014(root: Path) -> None:
    """Objects of 80 classes with gaps in their ids; one of each fold is in every image."""
    names = Vocabulary.packaged("coco_panoptic").labels[:80]
    category_ids = [i + 1 + i // 9 for i in range(80)]
    rows = zip(category_ids, names, strict=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [
        {"id": number, "name": name, "supercategory": "x"} for number, name in rows
    ]}  # fmt: skip
    for number in numbers():
        file = f"COCO_val2014_{number:012d}.jpg"
        save_image(root / "coco" / "val2014" / file, number)
        classes = [0, -1, 79, 1, 2, *draw(0, 79, -1, number)[5:]]
        places = [0 if c < 0 else place + 1 for place, c in enumerate(classes)]
        ids = grid(places, number)
        height, width = ids.shape
        content["images"].append(
            {"id": number, "file_name": file, "height": height, "width": width}
        )
        for place, c in zip(places, classes, strict=True):
            if place:
                code = coded(ids == place)
                content["annotations"].append(
                    {"id": len(content["annotations"]) + 1, "image_id": number, "iscrowd": 0,
                     "category_id": category_ids[c], "segmentation": code,
                     "area": int(mask_codec.area(code)), "bbox": mask_codec.toBbox(code).tolist()}
                )  # fmt: skip
    write_json(root / "coco" / "annotations" / "instances_val2014.json", content)


FSS_CLASSES = ("abe's_flyingfish", "b_c", "last", "apple", "zebra")  # the list has its own order
FSS_TRAINED = ("other", "a_first")
FSS_VALIDATED = ("between",)


def write_fss1000(root: Path) -> None:
    """Classes for the test, training and validation, two samples each; white objects on black."""
    folder = root / "FSS-1000" / "fewshot_data"
    for place, name in enumerate((*FSS_CLASSES, *FSS_TRAINED, *FSS_VALIDATED)):
        for number in numbers():
            save_image(folder / name / f"{number}.jpg", number + 10 * place)
            bright = grid([0, 255, *[255 * (i % (2 + place) == 0) for i in range(10)]], number)
            mask = np.stack([bright, bright, bright], -1).astype(np.uint8)
            save(folder / name / f"{number}.png", mask)
    (root / "FSS-1000" / "fss_test_set.txt").write_bytes("\r\n".join(FSS_CLASSES).encode())
    write_list(root / "FSS-1000" / "trn.txt", list(FSS_TRAINED))
    write_list(root / "FSS-1000" / "val.txt", list(FSS_VALIDATED))


def write_fss1000_prepared(root: Path) -> None:
    write_fss1000(root)
    fss1000.prepare(root, "test", PreparationOptions())


def write_small_world(root: Path) -> None:
    export_split(
        root / "small_world", "val", count=10, seed=0, processes=1, progress=lambda _: None
    )


def write_pascal_context(root: Path) -> None:
    folder = root / "VOCdevkit" / "VOC2010"
    stems = [f"2008_{number:06d}" for number in numbers()]
    (folder / "trainval").mkdir(parents=True)
    for number, stem in zip(numbers(), stems, strict=True):
        save_image(folder / "JPEGImages" / f"{stem}.jpg", number)
        values = [*draw(1, 459, 0, number)[:-2], *pascal_context.FREQUENT[:: 58 // number][:2]]
        labels = grid(values, number).astype(np.uint16)
        io.savemat(folder / "trainval" / f"{stem}.mat", {"LabelMap": labels})
    write_list(folder / "ImageSets" / "Main" / "val.txt", stems)
    names = ["tvmonitor" if i == 427 else f"name {i}" for i in range(1, 460)]
    write_list(folder / "labels.txt", [f"{i}: {name}" for i, name in enumerate(names, start=1)])


def write_list(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_cityscapes(root: Path) -> None:
    folder = root / "cityscapes"
    scored = list(cityscapes.LABELS)
    for number in numbers():
        stem = f"ulm_{number:06d}_000019"
        save_image(folder / "leftImg8bit" / "val" / "ulm" / f"{stem}_leftImg8bit.png", number)
        labels = [scored[i] if i >= 0 else 29 for i in draw(0, 18, -1, number)]  # 29: caravan
        ids = [1000 * label + place if label >= 24 else label for place, label in enumerate(labels)]
        ids[-1] = labels[-1] = 26  # cars that are not told apart
        target = folder / "gtFine" / "val" / "ulm"
        save(target / f"{stem}_gtFine_labelIds.png", grid(labels, number).astype(np.uint8))
        save(target / f"{stem}_gtFine_instanceIds.png", grid(ids, number).astype(np.uint16))


def write_mapillary(root: Path) -> None:
    folder = root / "mapillary_vistas" / "validation"
    names = Vocabulary.packaged("mapillary_vistas").labels
    content = panoptic_content(names, [True] * 8 + [False] * 57, first_id=1)
    for number in numbers():
        stem = f"key_{number}"
        save_image(folder / "images" / f"{stem}.jpg", number)
        labels = draw(0, 64, 65, number)
        save(folder / "labels" / f"{stem}.png", grid(labels, number).astype(np.uint8), palette=True)
        classes = [-1 if label == 65 else label for label in labels]
        add_panoptic(content, folder / "panoptic", classes, number, stem)
        entry = content["images"][-1]
        entry["height"], entry["width"] = entry["width"], entry["height"]  # as published
    write_json(folder / "panoptic" / "panoptic_2018.json", content)


def write_bdd100k(root: Path) -> None:
    folder = root / "bdd100k"
    for number in numbers():
        stem = f"7d06fefd-{number:08x}"
        save_image(folder / "images" / "10k" / "val" / f"{stem}.jpg", number)
        labels = grid(draw(0, 18, 255, number), number).astype(np.uint8)
        save(folder / "labels" / "sem_seg" / "masks" / "val" / f"{stem}.png", labels)
        category = draw(1, 40, 0, number)
        flags = [0] * BLOCKS
        flags[-1] = 0b10  # a crowd, or nothing that matters for stuff
        objects = [place + 300 if value else 0 for place, value in enumerate(category)]
        parts = (
            category,
            flags,
            [value // 256 for value in objects],
            [value % 256 for value in objects],
        )
        channels = [grid(values, number) for values in parts]
        target = folder / "labels" / "pan_seg" / "bitmasks" / "val" / f"{stem}.png"
        save(target, np.stack(channels, -1).astype(np.uint8))


def write_coco(root: Path) -> None:
    folder = root / "coco"
    vocabulary = Vocabulary.packaged("coco_panoptic")
    content = panoptic_content(vocabulary.labels, list(vocabulary.is_thing), first_id=1)
    things = [category for category in content["categories"] if category["isthing"]]
    objects: list[dict[str, Any]] = []
    for number in numbers():
        stem = f"{number:012d}"
        save_image(folder / "val2017" / f"{stem}.jpg", number)
        ids = add_panoptic(
            content, folder / "panoptic_val2017", draw(0, 132, -1, number), number, stem
        )
        for segment in content["annotations"][-1]["segments_info"]:
            if segment["category_id"] <= len(things):
                code = coded(ids == segment["id"])
                objects.append(
                    {"id": len(objects) + 1, "image_id": number, "segmentation": code, "iscrowd": 0,
                     "category_id": segment["category_id"], "area": int(mask_codec.area(code)),
                     "bbox": mask_codec.toBbox(code).tolist()}
                )  # fmt: skip
        labels = grid(draw(0, 170, -1, number), number)
        stuff = np.array([*coco.STUFF_IDS, 256])[labels] - 1
        save(folder / "stuffthingmaps" / "val2017" / f"{stem}.png", stuff.astype(np.uint8))
    (folder / "annotations").mkdir()
    write_json(folder / "annotations" / "panoptic_val2017.json", content)
    instances = {"images": content["images"], "annotations": objects, "categories": things}
    write_json(folder / "annotations" / "instances_val2017.json", instances)


def write_lvis(root: Path) -> None:
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [
        {"id": 2 * i + 1, "name": f"object {i}", "frequency": "rcf"[i % 3]} for i in range(9)
    ]}  # fmt: skip
    for number in numbers():
        file = f"val2017/{number:012d}.jpg"
        save_image(root / "coco" / file, number)
        ids = grid(draw(1, 9, 0, number), number)
        height, width = ids.shape
        content["images"].append(
            {"id": number, "coco_url": f"http://images.cocodataset.org/{file}", "height": height,
             "width": width, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        )  # fmt: skip
        for value in np.unique(ids[ids > 0]).tolist():
            code = coded(ids == value)
            content["annotations"].append(
                {"id": len(content["annotations"]) + 1, "image_id": number,
                 "category_id": 2 * value - 1, "segmentation": code,
                 "area": int(mask_codec.area(code)), "bbox": mask_codec.toBbox(code).tolist()}
            )  # fmt: skip
    write_json(root / "lvis" / "lvis_v1_val.json", content)


def coded(mask: np.ndarray) -> dict[str, Any]:
    code = mask_codec.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def panoptic_content(names: list[str], is_thing: list[bool], first_id: int) -> dict[str, Any]:
    return {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": number, "name": name, "isthing": int(thing)}
            for number, (name, thing) in enumerate(zip(names, is_thing, strict=True), first_id)
        ],
    }


def add_panoptic(
    content: dict[str, Any], folder: Path, classes: list[int], number: int, stem: str
) -> np.ndarray:
    """One image with class ids for its blocks, -1 for nothing: things are one segment a block.

    Returns the ids (H, W) of its segments.
    """
    flags = [category["isthing"] for category in content["categories"]]
    ids = [
        0 if c < 0 else 70_000 + 1000 * c + (place if flags[c] else 0)
        for place, c in enumerate(classes)
    ]
    infos = {
        i: {"id": i, "category_id": content["categories"][c]["id"], "iscrowd": 0}
        for i, c in zip(ids, classes, strict=True)
        if i
    }
    pixels = grid(ids, number)
    save(folder / f"{stem}.png", encode(pixels))
    height, width = pixels.shape
    image_id: int | str = number if stem.isdigit() else stem
    content["images"].append(
        {"id": image_id, "file_name": f"{stem}.jpg", "height": height, "width": width}
    )
    content["annotations"].append(
        {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": list(infos.values())}
    )
    return pixels


Writer = Callable[[Path], None]
FEW_SHOT = ("oracle mIoU", "oracle FB-IoU", "whole mIoU")
MOSAIC = ("mosaic mIoU", "oracle mIoU")
COUNTS = {"fss1000_test": 10, "fss1000_train": 4, "fss1000_mosaic4": 3, "small_world_mosaic4": 3}
"""Images of a replica, where they are not one of each size."""
# benchmark -> (its published files, its preparation, the headline metrics)
REPLICAS: dict[str, tuple[Writer, str, tuple[str, ...]]] = {
    "openvocab_ade20k_panoptic_val": (write_ade20k, "ade20k", ("PQ", "mIoU", "AP")),
    "openvocab_ade20k_sem_seg_val": (write_ade20k, "ade20k", ("mIoU",)),
    "openvocab_ade20k_instance_val": (write_ade20k, "ade20k", ("AP",)),
    "openvocab_ade20k_full_sem_seg_val": (write_ade20k_full, "ade20k_full", ("mIoU",)),
    "openvocab_pascal20_sem_seg_val": (write_pascal_voc, "pascal_voc", ("mIoU",)),
    "openvocab_pascal21_sem_seg_val": (write_pascal_voc, "pascal_voc", ("mIoU",)),
    "openvocab_pascal_ctx59_sem_seg_val": (write_pascal_context, "pascal_context", ("mIoU",)),
    "openvocab_pascal_ctx459_sem_seg_val": (write_pascal_context, "pascal_context", ("mIoU",)),
    "openvocab_cityscapes_fine_panoptic_val": (
        write_cityscapes, "cityscapes", ("PQ", "mIoU", "AP"),
    ),
    "openvocab_mapillary_vistas_panoptic_val": (write_mapillary, "", ("PQ", "mIoU")),
    "bdd10k_40_panoptic_val": (write_bdd100k, "bdd100k", ("PQ",)),
    "bdd10k_val_sem_seg": (write_bdd100k, "", ("mIoU",)),
    "openvocab_coco_2017_val_panoptic_with_sem_seg": (write_coco, "", ("PQ", "mIoU", "AP")),
    "openvocab_coco_2017_test_stuff_sem_seg": (write_coco, "coco_stuff", ("mIoU",)),
    "openvocab_lvis_v1_val": (write_lvis, "", ("AP", "APr", "APc", "APf")),
    "pascal5i_fold0_val": (write_pascal_voc, "pascal_voc", FEW_SHOT),
    "pascal5i_fold2_train": (write_pascal_voc, "pascal_voc --split training_aug", FEW_SHOT),
    "coco20i_fold3_val": (write_coco_2014, "", FEW_SHOT),
    "coco20i_fold3_val_first1000": (write_coco_2014, "", FEW_SHOT[:2]),
    "coco20i_fold3_to_pascal_val": (write_pascal_voc, "pascal_voc", FEW_SHOT),
    "fss1000_test": (write_fss1000, "fss1000", FEW_SHOT),
    "fss1000_train": (write_fss1000, "fss1000 --split train", FEW_SHOT),
    "fss1000_val": (write_fss1000, "fss1000 --split val", FEW_SHOT),
    "fss1000_mosaic4": (write_fss1000_prepared, "mosaic4", MOSAIC),
    "small_world_mosaic4": (write_small_world, "mosaic4 --split small_world", MOSAIC),
}  # fmt: skip
