"""Caches of text and of features, and folders of SAM's masks."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from frozenseg.tensor_store import FORMAT, checksum, read_tensors, write_tensors
from tests.faults.edits import inside
from tests.faults.processes import run_command
from tests.faults.table import Case, Make, World, both

VOCABULARY = "car;road;sky"
DEMO = (
    "demo --config-file world/tiny.yaml --input world/data/images/1.png --output out "
    f'--vocabulary "{VOCABULARY}" --weights world/weights.safetensors'
)
FIXED = "INPUT.MIN_SCALE 1.0 INPUT.MAX_SCALE 1.0 INPUT.FLIP_PROBABILITY 0.0"
TRAIN = (
    "train_net --config-file world/tiny.yaml OUTPUT_DIR out SOLVER.MAX_ITER 1 SOLVER.STEPS () "
    f"DATASETS.TEST () DATALOADER.FEATURE_CACHE features {FIXED}"
)
SAM = (
    "TEST.PKL_SAM_MODEL_NAME tiny TEST.SAM_MASKS.WEIGHTS sam.safetensors "
    "TEST.SAM_MASKS.POINTS_PER_SIDE 2 TEST.SAM_MASKS.PREDICTED_IOU 0.0 "
    "TEST.SAM_MASKS.STABILITY 0.0 TEST.SAM_MASKS.MIN_REGION_AREA 0"
)
INPUTS = "--input world/data/images/1.png world/data/images/2.png"
MASKS = f"make_sam_masks --config-file world/tiny.yaml {INPUTS} --output masks"
EVALUATE = (
    "train_net --config-file world/tiny.yaml --eval-only OUTPUT_DIR out "
    "MODEL.WEIGHTS world/weights.safetensors TEST.USE_SAM_MASKS True "
    f"TEST.SAM_MASKS.FOLDER masks {SAM}"
)


def filled(world: World, name: str, command: str) -> None:
    """Let the folder `name` of the world be made by a command, once."""
    if (world / name).exists():
        return
    (world / "world").symlink_to(".") if not (world / "world").exists() else None
    outcome = run_command(command.replace('"', "").split(" "), world, 120)
    assert outcome.status == 0, outcome.text


def tensors(
    change: Callable[[dict[str, Tensor], dict[str, str]], object],
) -> Callable[[Path], None]:
    """Change the tensors and the metadata of each file of a cache."""

    def apply(folder: Path) -> None:
        for path in sorted(folder.rglob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                about = dict(file.metadata() or {})
                held = {name: file.get_tensor(name) for name in file.keys()}
            change(held, about)
            save_file({name: t.contiguous() for name, t in held.items()}, path, about)

    return apply


def each(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return tensors(lambda held, about: held.update({k: change(t) for k, t in held.items()}))


def data(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Change the bytes of each file."""

    def apply(folder: Path) -> None:
        for path in folder.rglob("*.safetensors"):
            path.write_bytes(change(path.read_bytes()))

    return apply


def pipes(folder: Path) -> None:
    for path in list(folder.rglob("*.safetensors")):
        path.unlink()
        os.mkfifo(path)


def exchanged(held: dict[str, Tensor], about: dict[str, str]) -> None:
    first, second, *_ = sorted(held)
    held[first], held[second] = held[second], held[first]


def files_exchanged(folder: Path) -> None:
    first, second, *_ = sorted(folder.rglob("*.safetensors"))
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)


CHANGES = {
    "bit_flip": data(lambda held: held[:-9] + bytes([held[-9] ^ 64]) + held[-8:]),
    "zeros": data(lambda held: held[:-100] + bytes(100)),
    "cut": data(lambda held: held[: len(held) // 2]),
    "nan": each(lambda t: t * torch.nan),
    "other_dimension": each(lambda t: t.flatten()[:7]),
    "whole_numbers": each(lambda t: t.int()),
    "half": each(lambda t: t.half()),
    "twice": each(lambda t: t * 2),
    "without_metadata": tensors(lambda held, about: about.clear()),
    "pipes": pipes,
}
TEXT = {**CHANGES, "exchanged": tensors(exchanged), "two_rows": each(lambda t: torch.stack([t, t]))}


def _layout_of_nothing(folder: Path) -> None:
    """Files whose checksum is right, but not their metadata."""
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}
        about = {"format": FORMAT, "channels_last": "nothing"}
        save_file(held, path, {**about, "crc32": str(checksum(path, held, about))})


def _rewritten(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]):  # type: ignore[no-untyped-def]
    """Whole files whose checksum is right, with other tensors: features of another model."""

    def apply(folder: Path) -> None:
        for path in sorted(folder.rglob("*.safetensors")):
            write_tensors(path, change(read_tensors(path)))

    return apply


OTHER_MODEL = {
    "channels": _rewritten(lambda held: {name: t.repeat(1, 2, 1, 1) for name, t in held.items()}),
    "level_missing": _rewritten(lambda held: {n: t for n, t in held.items() if n != "res3"}),
    "level_more": _rewritten(lambda held: {**held, "res6": held["res5"].clone()}),
    "patch_tokens": _rewritten(lambda held: {"cells": held["res5"]}),
    "integers": _rewritten(lambda held: {name: t.to(torch.int8) for name, t in held.items()}),
    "vectors": _rewritten(lambda held: {name: t.flatten(1) for name, t in held.items()}),
    "two_images": _rewritten(lambda held: {n: torch.cat([t, t]) for n, t in held.items()}),
    "empty": _rewritten(lambda held: {}),
}
FEATURES = {
    **CHANGES, "files_exchanged": files_exchanged, "layout_of_nothing": _layout_of_nothing
}  # fmt: skip


def _text(change: Callable[[Path], object]) -> Make:
    return both(lambda world, folder: filled(world, "cache", DEMO), inside("cache", change))


def _features(change: Callable[[Path], object]) -> Make:
    return both(lambda world, folder: filled(world, "features", TRAIN), inside("features", change))


# -- SAM's masks --


def _sam(world: World, folder: Path) -> None:
    from safetensors.torch import save_file

    from frozenseg.encoders.sam import build_sam_model

    if not (world / "sam.safetensors").exists():
        torch.manual_seed(0)
        save_file(build_sam_model("tiny").state_dict(), world / "sam.safetensors")
    (folder / "sam.safetensors").symlink_to(world / "sam.safetensors")


def masks(change: Callable[[Path], object]) -> Make:
    def make(world: World, folder: Path) -> None:
        _sam(world, folder)
        filled(world, "masks", f"{MASKS.replace(INPUTS, _dataset(world))} --opts {SAM}")
        inside("masks", change)(world, folder)

    return make


def _dataset(world: World) -> str:
    data = world / "data"
    return f"--dataset coco_panoptic:{data}/panoptic.json:{data}/png:{data}/images"


def archive(change: Callable[[dict[str, Any]], object]) -> Make:
    """The arrays of image 1, changed."""

    def apply(folder: Path) -> None:
        with np.load(folder / "1.npz") as file:
            arrays = dict(file)
        change(arrays)
        np.savez_compressed(folder / "1.npz", **arrays)

    return masks(apply)


def written(name: str, content: bytes | str) -> Make:
    data = content.encode() if isinstance(content, str) else content
    return masks(lambda folder: (folder / name).write_bytes(data))


def put(name: str, value: Any) -> Make:
    return archive(lambda arrays: arrays.update(
        {name: value(arrays[name]) if callable(value) else value}))  # fmt: skip


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


def _bomb(folder: Path) -> None:
    import zipfile

    with zipfile.ZipFile(folder / "1.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name, shape in (("codes", (1, 60_000, 60_000)), ("predicted_iou", (1,)),
                            ("pixels", ())):  # fmt: skip
            head = io.BytesIO()
            kind = "|i1" if name == "codes" else "<f4"
            np.lib.format.write_array_header_1_0(
                head, {"descr": kind, "fortran_order": False, "shape": shape}
            )
            with file.open(name + ".npy", "w", force_zip64=True) as entry:
                entry.write(head.getvalue())
                for _ in range(3600 if name == "codes" else 0):
                    entry.write(bytes(1_000_000))
                entry.write(bytes(4))


def _pipe(folder: Path) -> None:
    (folder / "1.npz").unlink()
    os.mkfifo(folder / "1.npz")


SAM_FILES: list[tuple[str, Make, str]] = [
    ("quality_nan", put("predicted_iou", lambda v: v * np.nan), r"1\.npz"),
    ("quality_text", put("predicted_iou", lambda v: v.astype(str)), r"1\.npz"),
    ("codes_of_another_size", put("codes", lambda v: v[:, : v.shape[1] // 2]), r"1\.npz"),
    ("codes_empty", put("codes", lambda v: v[:, :0, :0]), r"1\.npz"),
    ("codes_float", put("codes", lambda v: v.astype(float)), r"1\.npz"),
    ("pixels_two", put("pixels", np.array([1, 2])), r"1\.npz"),
    ("pixels_text", put("pixels", np.array("x")), r"1\.npz"),
    ("npy", written("1.npz", _npy()), r"1\.npz"),
    ("text", written("1.npz", "x"), r"1\.npz"),
    ("bomb", masks(_bomb), r"1\.npz"),
    ("pipe", masks(_pipe), r"1\.npz"),
    ("about_list", written("proposals.json", "[]"), r"proposals\.json|masks"),
    ("about_text", written("proposals.json", '"x"'), r"proposals\.json|masks"),
    ("about_null", written("proposals.json", "null"), r"proposals\.json|masks"),
    ("about_number", written("proposals.json", "5"), r"proposals\.json|masks"),
    ("about_empty", written("proposals.json", "{}"), "other settings"),
    ("about_gone", masks(lambda folder: (folder / "proposals.json").unlink()), "no proposals.json"),
]
INTO = f"{MASKS.replace('--output masks', '--output {}')} --opts {SAM}"

CASES = [
    *(Case(f"text_{name}", DEMO, 0, "3 names, 0 from the cache, 3 encoded",
           _text(change), fast=name in ("nan", "pipes", "exchanged"))
      for name, change in TEXT.items()),
    *(Case(f"features_{name}", TRAIN, 0,
           "step 1/1" if name == "without_metadata" else "cache .*: damaged and left aside",
           _features(change),
           fast=name in ("nan", "pipes"))
      for name, change in FEATURES.items()),
    *(Case(f"features_of_other_model_{name}", TRAIN, 0, "cache .*: holds features of another model",
           _features(change), fast=name == "channels")
      for name, change in OTHER_MODEL.items()),
    *(Case(f"sam_{name}", EVALUATE, 2, words, make, fast=name == "quality_nan")
      for name, make, words in SAM_FILES),
    Case("sam_whole", EVALUATE, 0, "mIoU|PQ", masks(lambda folder: None)),
    Case("sam_folder_long", EVALUATE.replace("FOLDER masks", f"FOLDER {'x' * 300}"), 2, "xxx",
         _sam),
    Case("make_into_a_file", INTO.format("world/tiny.yaml"), 2, "tiny.yaml", _sam),
    Case("make_into_proc", INTO.format("/proc/x"), 2, "/proc/x", _sam),
    Case("make_long", INTO.format("x" * 300), 2, "xxx", _sam),
    Case("make_sheet_in_proc", MASKS + " --sheet /proc/x.png --opts " + SAM, 2, "/proc/x",
         _sam),
    Case("make_sheet_unknown", MASKS + " --sheet x.xyz --opts " + SAM, 2, "x.xyz", _sam),
]  # fmt: skip
