"""The readers that are given damaged files, and the valid files that are damaged."""

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from frozenseg.checkpoints.random_states import random_state
from frozenseg.checkpoints.schema import TrainingCheckpoint, by_name
from frozenseg.checkpoints.state_dict import packed, read_state
from frozenseg.checkpoints.training import load_checkpoint
from frozenseg.config import load_config
from frozenseg.data.coco_json import read_categories, read_images, read_instance_file
from frozenseg.data.images import read_image
from frozenseg.data.label_maps import read_labels, read_panoptic_ids
from frozenseg.data.panoptic_json import read_panoptic_entries
from frozenseg.data.rle import checked_segmentation, encode_masks, encode_segmentation
from frozenseg.devtools.fuzz.containers import in_archive, in_chunk, in_header
from frozenseg.devtools.fuzz.mutations import mutated
from frozenseg.evaluation.prediction_files import read_detections
from frozenseg.files import read_json
from frozenseg.inference.proposal_files import ABOUT, VERSION, ProposalFolder, checksum
from frozenseg.tensor_store import read_tensors
from frozenseg.text.vocabulary import Vocabulary

Damage = Callable[[bytes, bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """A reader. It may accept a damaged file or raise a `UserError`; anything else is a leak.

    name: the kind of file.
    suffix: suffix of its name.
    whole: makes valid files of this kind.
    read: the reader.
    damages: ways to damage a file, of which one is chosen for each file.
    """

    name: str
    suffix: str
    whole: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    damages: tuple[Damage, ...] = (mutated,)


# -- text --

CLASSES = [
    "car, truck\nroad\nsky # above\n[things]\ncat,dog\n",
    "0:invalid_class_id\n1:car,cars\n2:road\n",
    json.dumps({"names": ["car", ["road", "street"], "sky"], "things": ["car"]}),
]
IMAGES = [
    {"id": number, "file_name": f"{number}.png", "height": 9, "width": 12} for number in (1, 2)
]
CATEGORIES = [{"id": 7, "name": "cat", "isthing": 1}, {"id": 3, "name": "road", "isthing": 0}]
MASK = np.zeros((9, 12), np.uint8)
MASK[2:5, 3:8] = 1
CODE = {**encode_masks(MASK[None])[0]}
CODE["counts"] = CODE["counts"].decode() if isinstance(CODE["counts"], bytes) else CODE["counts"]
SEGMENTATIONS = [CODE, {"size": [9, 12], "counts": [29, 3, 76]}, [[1, 1, 8, 1, 8, 7, 1, 7]]]


def _text(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [text.encode() for text in texts]


def _instances() -> list[bytes]:
    rows = [
        {"id": i, "image_id": 1 + i % 2, "category_id": 7, "iscrowd": 0, "area": 15.0,
         "bbox": [3, 2, 5, 3], "segmentation": segmentation}
        for i, segmentation in enumerate(SEGMENTATIONS)
    ]  # fmt: skip
    return [json.dumps(dict(images=IMAGES, categories=CATEGORIES, annotations=rows)).encode()]


def _read_instances(path: Path) -> None:
    content = read_json(path)
    read_instance_file(content, str(path), boxes=len(str(content)) % 2 == 0)


def _panoptic() -> list[bytes]:
    rows = [
        {"image_id": image["id"], "file_name": image["file_name"],
         "segments_info": [{"id": 5, "category_id": 7, "iscrowd": 0, "area": 15, "bbox": [0] * 4},
                           {"id": 70000, "category_id": 3, "iscrowd": 0, "area": 93}]}
        for image in IMAGES
    ]  # fmt: skip
    return [json.dumps(dict(images=IMAGES, categories=CATEGORIES, annotations=rows)).encode()]


def _read_panoptic(path: Path) -> None:
    content = read_json(path)
    read_images(content, str(path))
    categories = read_categories(content, str(path), panoptic=True)
    read_panoptic_entries(content, categories, str(path))


def _results() -> list[bytes]:
    row = {"image_id": 1, "category_id": 7, "score": 0.9, "segmentation": CODE}
    return [json.dumps([row, {**row, "image_id": 2}]).encode()]


def _read_results(path: Path) -> None:
    read_detections(read_json(path), str(path), {1, 2}, {3, 7})


def _read_masks(path: Path) -> None:
    content = read_json(path)
    for segmentation in content if isinstance(content, list) else [content]:
        checked = checked_segmentation(segmentation, 9, 12, str(path))
        if checked is not None:
            encode_segmentation(checked, 9, 12)


YAML = [
    "SEED: 1\nMODEL:\n  PIXEL_STD: [1.0, 2.0, 3.0]\n  MASK_FORMER: {NHEADS: 4, DEC_LAYERS: 3}\n",
    'SOLVER: {BASE_LR: 1e-4, STEPS: (1, 2), MAX_ITER: 3}\nDATASETS:\n  TRAIN: ("a", "b")\n',
    "_BASE_: frozenseg://small/config.yaml\nTEST: &t\n  AUG: {MIN_SIZES: [100, 200]}\nINPUT: {}\n",
]

# -- tensors --


def _state() -> dict[str, Tensor]:
    table = torch.zeros(40, 3)
    table[[1, 7]] = 1.5
    return {"a.weight": torch.ones(4, 3), "a.bias": torch.arange(4), "table": table}


def _torch(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def _weights() -> list[bytes]:
    return [_torch(_state()), _torch({"model": _state(), "iteration": 3})]


def _old_weights() -> list[bytes]:
    return [_torch(_state(), _use_new_zipfile_serialization=False)]


def _checkpoint() -> list[bytes]:
    weights = {"a": torch.nn.Parameter(torch.ones(4, 3))}
    optimizer = torch.optim.AdamW([*weights.items()], lr=0.1)
    weights["a"].sum().backward()
    optimizer.step()
    plain = {name: tensor.detach() for name, tensor in weights.items()}
    best = {"score": 0.5, "step": 1, "metric": "PQ"}
    checkpoint = TrainingCheckpoint(
        1, 2, 3, plain, optimizer.state_dict(), {}, plain, [random_state()], best
    )
    return [_torch(by_name(checkpoint))]


def _features() -> list[bytes]:
    tensors = {"res4": torch.ones(1, 2, 3, 4), "res5": torch.ones(1, 2, 2, 2)}
    return [save(tensors, {"format": "1", "channels_last": "res5", "crc32": "0"})]


SEEN = torch.zeros(3, 6, 8)  # the image to which the masks below belong


def _masks() -> list[bytes]:
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        codes=np.ones((2, 3, 4), np.int8),
        predicted_iou=np.ones(2, np.float32),
        pixels=np.array(checksum(SEEN), np.uint32),
    )
    return [stream.getvalue()]


def _read_proposals(path: Path) -> None:
    (path.parent / ABOUT).write_text(json.dumps({"version": VERSION}))
    ProposalFolder(path.parent, {}, create=False).load(path.stem, SEEN)


# -- pictures --

FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM", "TGA", "ICO", "PCX", "DDS", "SGI")


def _pictures() -> list[bytes]:
    """Return a small picture in many formats, and PNG and TIFF in the modes of label maps."""
    photo = np.random.default_rng(0).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6
    found = []
    for kind in FORMATS:
        options = {"exif": exif.tobytes()} if kind in ("PNG", "JPEG", "WEBP") else {}
        found.append(_picture(Image.fromarray(photo), kind, **options))
    for mode in ("1", "L", "LA", "P", "RGBA"):
        found.append(_picture(Image.fromarray(photo).convert(mode), "PNG"))
    for kind, dtype in (("PNG", "uint16"), ("TIFF", "int32"), ("TIFF", "float32")):
        found.append(_picture(Image.fromarray(photo[..., 0].astype(dtype)), kind))
    return found


def _picture(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _read_labels(path: Path) -> None:
    """Read the file with both readers of label maps, even if the first refuses it."""
    try:
        read_panoptic_ids(path)
    finally:
        read_labels(path)


TARGETS = [
    Target("vocabulary", ".txt", _text(*CLASSES[:2]), Vocabulary.from_file),
    Target("vocabulary JSON", ".json", _text(CLASSES[2]), Vocabulary.from_file),
    Target("instances", ".json", _instances, _read_instances),
    Target("panoptic", ".json", _panoptic, _read_panoptic),
    Target("results", ".json", _results, _read_results),
    Target("masks", ".json", _text(json.dumps(SEGMENTATIONS)), _read_masks),
    Target("configuration", ".yaml", _text(*YAML), load_config),
    Target("safetensors", ".safetensors", lambda: [save(_state())], read_state,
           (mutated, in_header)),
    Target("packed tables", ".safetensors", lambda: [save(packed(_state()))], read_state,
           (mutated, in_header)),
    Target("weights", ".pth", _weights, read_state, (mutated, in_archive)),
    Target("old weights", ".pth", _old_weights, read_state),
    Target("checkpoint", ".pt", _checkpoint, load_checkpoint, (mutated, in_archive)),
    Target("features", ".safetensors", _features, read_tensors, (mutated, in_header)),
    Target("SAM masks", ".npz", _masks, _read_proposals, (mutated, in_archive)),
    Target("images", ".png", _pictures, read_image, (mutated, in_chunk)),
    Target("label maps", ".png", _pictures, _read_labels, (mutated, in_chunk)),
]  # fmt: skip
