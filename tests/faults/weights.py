"""Files of weights and what training checkpoints hold."""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.faults.table import Case, Make, World, both, copied, raw

State = dict[Any, Any]
NAME = "mask_decoder.norm.weight"
TABLE = "mask_decoder.query_features"
DEMO = (
    "demo --config-file world/tiny.yaml --input world/data/images/1.png --output out "
    "--vocabulary car --weights {}"
)
# Weights of the trained parts alone, so that the frozen encoders need files of their own.
FROZEN = (
    DEMO.format("world/run/model_final.safetensors")
    + " MODEL.ALLOW_RANDOM_WEIGHTS False MODEL.FROZEN_SEG.CLIP_PRETRAINED_WEIGHTS {clip} "
    "MODEL.SAM_WEIGHTS {sam}"
)
OF_ENCODERS = ("nan", "int_keys", "executes", "empty", "login_page", "folder.pth")


def state(change: Callable[[State], object], name: str = "x.pth") -> Make:
    """The weights of the tiny model, changed, as a file that torch or safetensors writes."""

    def make(world: World, folder: Path) -> None:
        content: State = load_file(world / "weights.safetensors")
        changed = change(content)
        content = content if changed is None else changed  # type: ignore[assignment]
        if name.endswith(".safetensors"):
            save_file(content, folder / name)
        else:
            torch.save(content, folder / name)

    return make


def value(number: float, dtype: torch.dtype | None = None) -> Callable[[State], None]:
    """One weight is `number`; or all weights are of another type."""

    def change(content: State) -> None:
        content[NAME].view(-1)[3] = number
        if dtype is not None:
            content.update({key: tensor.to(dtype) for key, tensor in content.items()})

    return change


def replaced(make: Callable[[Tensor], Any]) -> Callable[[State], None]:
    return lambda content: content.update({NAME: make(content[NAME])})


def whole(change: Callable[[bytes], bytes], name: str = "x.pth") -> Make:
    """The file of good weights with other bytes."""

    def make(world: World, folder: Path) -> None:
        state(lambda content: None, name)(world, folder)
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return make


def legacy(change: Callable[[bytes], bytes]) -> Make:
    """The same of the format that torch wrote before it wrote archives."""

    def make(world: World, folder: Path) -> None:
        stream = io.BytesIO()
        torch.save(load_file(world / "weights.safetensors"), stream,
                   _use_new_zipfile_serialization=False)  # fmt: skip
        (folder / "x.pth").write_bytes(change(stream.getvalue()))

    return make


def flipped(data: bytes, place: float = 0.5) -> bytes:
    at = int(len(data) * place)
    return data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :]


def header(change: Callable[[dict[str, Any]], object], tail: bytes = b"") -> Make:
    """Good weights in a safetensors file whose header is changed."""

    def make(world: World, folder: Path) -> None:
        data = (world / "weights.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        entries = json.loads(data[8 : 8 + length])
        changed = change(entries)
        text = changed if isinstance(changed, bytes) else json.dumps(entries).encode()
        body = data[8 + length :]
        (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body + tail)

    return make


def table(**parts: Tensor) -> Make:
    """A table that is stored without its zero rows."""

    def change(content: State) -> None:
        del content[TABLE]
        default = {"places": torch.tensor([0]), "values": torch.ones(1, 32),
                   "length": torch.tensor([10])}  # fmt: skip
        for name, tensor in (default | parts).items():
            content[f"{TABLE}@{name}"] = tensor

    return state(change, "x.safetensors")


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def payload(world: World, folder: Path) -> None:
    torch.save({"model": _Payload()}, folder / "x.pth")


def _closed(world: World, folder: Path) -> None:
    state(lambda content: None, "x.safetensors")(world, folder)
    (folder / "x.safetensors").unlink()
    (folder / "x.safetensors").symlink_to("/proc/self/mem")


def _fifo(world: World, folder: Path) -> None:
    os.mkfifo(folder / "x.safetensors")


def _archive(method: int, encrypted: bool = False) -> Make:
    """An archive of torch's names, compressed by another method than torch writes."""

    def make(world: World, folder: Path) -> None:
        state(lambda content: None)(world, folder)
        path = folder / "x.pth"
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        if encrypted:
            data = path.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00",
                                             b"PK\x01\x02\x14\x03\x14\x00\x01\x00")  # fmt: skip
            path.write_bytes(data)

    return make


FINITE = "weights x.*not finite or too large.*norm.weight"
PLAIN = "weights x.*no plain numbers|do not fit the model|another type"


# name, recipe, what the line says
def _entry_named_in_two_lines(world: World, folder: Path) -> None:
    """An archive that is damaged in an entry whose name has a line break."""
    with zipfile.ZipFile(folder / "x.pth", "w") as archive:
        archive.writestr("archive/data/\n", b"weights")
    whole = (folder / "x.pth").read_bytes()
    (folder / "x.pth").write_bytes(whole.replace(b"weights", b"weightz"))


READ = """python
from frozenseg.checkpoints.state_dict import read_state
from frozenseg.errors import UserError
try:
    read_state("x.pth")
except UserError as error:
    print([str(error)])
"""
FILES: list[tuple[str, Make, str]] = [
    ("nan", state(value(float("nan"))), FINITE),
    ("one_nan.safetensors", state(value(float("nan")), "x.safetensors"), FINITE),
    ("inf.safetensors", state(value(float("inf")), "x.safetensors"), FINITE),
    ("huge.safetensors", state(value(1e30), "x.safetensors"), FINITE),
    ("int32.safetensors", state(value(1, torch.int32), "x.safetensors"), PLAIN),
    ("uint8.safetensors", state(value(1, torch.uint8), "x.safetensors"), PLAIN),
    ("bool.safetensors", state(value(1, torch.bool), "x.safetensors"), PLAIN),
    ("complex", state(value(1, torch.complex64)), PLAIN),
    ("meta", state(replaced(lambda t: t.to("meta"))), PLAIN),
    ("quantised", state(replaced(lambda t: torch.quantize_per_tensor(t, 1.0, 0, torch.qint8))),
     PLAIN),
    ("sparse", state(replaced(lambda t: t.to_sparse())), PLAIN),
    ("misshaped", state(replaced(lambda t: t[:3])), "of another shape"),
    ("missing", state(lambda content: content.__delitem__(NAME)), "1 missing"),
    ("extra", state(lambda content: content.update(x=torch.ones(1))), "1 unexpected"),
    ("int_keys", state(lambda content: dict(enumerate(content.values()))), "state dict"),
    ("tuple_keys", state(lambda content: {(1, k): v for k, v in content.items()}), "state dict"),
    ("list", state(lambda content: list(content.values())), "state dict"),
    ("no_tensors", state(lambda content: dict.fromkeys(content, 1)), "state dict"),
    ("overlapping", state(replaced(lambda t: torch.ones(1).expand(5))), "of another shape"),
    ("bit_flip", whole(flipped), "damaged|cannot be read"),
    ("cut", whole(lambda data: data[: len(data) // 2]), "incomplete|damaged|not a checkpoint"),
    ("cut_at_100", whole(lambda data: data[:100]), "incomplete|not a checkpoint"),
    ("cut_last.safetensors", whole(lambda data: data[:-1], "x.safetensors"), "damaged"),
    ("tail.safetensors", header(lambda entries: None, b"12345"), "damaged"),
    ("legacy_cut_680", legacy(lambda data: data[:680]), "not a checkpoint|cannot be read"),
    ("legacy_cut_696", legacy(lambda data: data[:696]), "not a checkpoint|cannot be read"),
    ("legacy_cut_half", legacy(lambda data: data[: len(data) // 2]),
     "cannot be read|not a checkpoint"),
    ("login_page", raw("x.pth", "Repository not found"), "a web page or other text"),
    ("html", raw("x.pth", "<!DOCTYPE html><html>" * 9), "a web page or other text"),
    ("word", raw("x.pth", "error"), "a web page or other text"),
    ("empty", raw("x.pth", b""), "an empty file"),
    ("empty.safetensors", raw("x.safetensors", b""), "an empty file"),
    ("lfs", raw("x.pth", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "LFS"),
    ("executes", payload, "would have to execute code"),
    ("method_lzma", _archive(zipfile.ZIP_LZMA), "cannot be read|damaged"),
    ("encrypted", _archive(zipfile.ZIP_STORED, True), "cannot be read|damaged"),
    ("header_not_json", header(lambda entries: b"{" + b"x" * 50), "damaged"),
    ("header_deep", header(lambda entries: b'{"a":' + b"[" * 30_000), "damaged"),
    ("header_bad_type", header(lambda entries: entries[NAME].update(dtype="X9")), "damaged"),
    ("header_negative", header(lambda entries: entries[NAME].update(shape=[-1])), "damaged"),
    ("header_overflow", header(lambda entries: entries[NAME].update(shape=[2**62, 8])), "damaged"),
    ("header_offsets", header(lambda entries: entries[NAME].update(data_offsets=[0, 2**60])),
     "damaged"),
    ("header_not_utf8", header(lambda entries: b'{"\xff": 1}'), "damaged"),
    ("header_says_huge", raw("x.safetensors", struct.pack("<Q", 2**60) + b"{}" * 50), "damaged"),
    ("unreadable.safetensors", _closed, "cannot be read|no such file"),
    ("fifo.safetensors", _fifo, "no such file"),
    ("folder.pth", lambda world, folder: (folder / "x.pth").mkdir(), "is a folder"),
    ("table_length_of_two", table(length=torch.tensor([10, 10])), "do not fit"),
    ("table_length_empty", table(length=torch.zeros(0, dtype=torch.int32)), "do not fit"),
    ("table_length_nan", table(length=torch.tensor([torch.nan])), "do not fit"),
    ("table_length_negative", table(length=torch.tensor([-5])), "do not fit"),
    ("table_of_380_GB", table(length=torch.tensor([10**8]), places=torch.tensor([0]),
                              values=torch.ones(1, 950)), "do not fit"),
    ("table_places_float", table(places=torch.tensor([0.5])), "do not fit"),
    ("table_places_outside", table(places=torch.tensor([10])), "do not fit"),
    ("table_places_2d", table(places=torch.tensor([[0]])), "do not fit"),
]  # fmt: skip
ADDRESSES = [
    ("traversal", "frozenseg://../../../../../../../etc/passwd", "leads out of the package"),
    ("packaged_missing", "frozenseg://small/x.safetensors", "no such file"),
    ("url", "https://example.com/a.pth", "an address"),
    ("nothing", "x/y.pth", "no such file"),
    ("long_name", "x" * 300 + ".pth", "File name too long"),
]


# -- training checkpoints --


def checkpoint(change: Callable[[dict[str, Any]], object]) -> Make:
    """The run of the world, whose newest checkpoint is changed; the older one is removed."""

    def make(world: World, folder: Path) -> None:
        copied("run")(world, folder)
        newest, older = sorted((folder / "run/checkpoints").iterdir(), reverse=True)[:2]
        older.unlink()
        content = torch.load(newest, weights_only=True)
        change(content)
        torch.save(content, newest)

    return make


def put(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    """Set one entry inside a checkpoint; `to` may be a function of what is there."""

    def change(content: dict[str, Any]) -> None:
        holder: Any = content
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = to(holder[path[-1]]) if callable(to) else to

    return change


def moment(to: Any) -> Callable[[dict[str, Any]], None]:
    return put("optimizer", "state", 0, "exp_avg", to=to)


RESUME = "train_net --config-file world/tiny.yaml --resume OUTPUT_DIR run SOLVER.MAX_ITER 6"
CONTENTS = [
    ("optimizer_empty", put("optimizer", to={}), "optimiser"),
    ("optimizer_none", put("optimizer", to=None), "optimiser"),
    ("optimizer_state_missing", put("optimizer", "state", to={}), "optimiser: moments of 0"),
    ("optimizer_groups_missing", lambda c: c["optimizer"].pop("param_groups"), "optimiser"),
    ("optimizer_other_shape", moment(torch.zeros(3, 3)), "optimiser: exp_avg"),
    ("optimizer_nan", moment(lambda t: t * torch.nan), "optimiser .*not finite"),
    ("step_text", put("step", to="x"), "step: a count"),
    ("step_nan", put("step", to=float("nan")), "step: a count"),
    ("step_negative", put("step", to=-4), "step: a count"),
    ("step_none", put("step", to=None), "step: a count"),
    ("images_text", put("images", to="x"), "images: a count"),
    ("images_negative", put("images", to=-1), "images: a count"),
    ("images_huge", put("images", to=10**40), "images: a count"),
    ("seed_huge", put("seed", to=10**40), "seed: a count"),
    ("weights_list", put("weights", to=[1]), "weights: tensors by name"),
    ("weights_nan", put("weights", to=lambda w: {k: v * torch.nan for k, v in w.items()}),
     "weights: .*not finite"),
    ("weights_int", put("weights", to=lambda w: {k: v.int() for k, v in w.items()}), "checkpoint"),
    ("weights_int_keys", put("weights", to=lambda w: dict(enumerate(w.values()))),
     "weights: tensors by name"),
    ("average_partial", put("average", to=lambda w: dict(list(w.items())[:3])), "average"),
    ("average_misshaped", put("average", to=lambda w: {k: torch.zeros(3) for k in w}), "average"),
    ("average_list", put("average", to=[1]), "average"),
    ("random_wrong", put("random_states", 0, to={}), "random states"),
    ("random_short", put("random_states", 0, "torch", to=[1, 2, 3]), "random states"),
    ("random_python", put("random_states", 0, "python", to=[3, [1, 2], None]), "random states"),
    ("random_numpy", put("random_states", 0, "numpy", to=["MT19937"]), "random states"),
    ("random_text", put("random_states", to=["x"]), "random states"),
    ("best_wrong", put("best", to={"score": "x", "step": 1, "metric": "PQ"}), "best"),
    ("best_list", put("best", to=[1]), "best"),
    ("scaler_wrong", put("scaler", to={"x": 1}), "scaler"),
    ("missing_entry", lambda c: c.pop("seed"), "not a training checkpoint of this program"),
]  # fmt: skip


def cut_newest(world: World, folder: Path) -> None:
    copied("run")(world, folder)
    newest = max((folder / "run/checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:5000])


def newest_is_a_folder(world: World, folder: Path) -> None:
    copied("run")(world, folder)
    newest = max((folder / "run/checkpoints").iterdir())
    newest.unlink()
    newest.mkdir()


CONVERT = "convert_checkpoint --config-file world/tiny.yaml {} {}"
CASES = [
    *(Case(name, DEMO.format("x.safetensors" if name.endswith("safetensors") else "x.pth")
           if not name.startswith(("header", "table")) else DEMO.format("x.safetensors"),
           words=words, make=make, fast=True)
      for name, make, words in FILES),
    *(Case(f"address_{name}", DEMO.format(given), words=words, fast=True)
      for name, given, words in ADDRESSES),
    *(
        Case(f"{part}_{name}", FROZEN.format(**files), words=words, make=make)
        for name, make, words in FILES
        if name in OF_ENCODERS
        for part, files in (
            ("CLIP", {"clip": "./x.pth", "sam": "world/sam.safetensors"}),
            ("SAM", {"clip": "world/clip.safetensors", "sam": "./x.pth"}),
        )
    ),
    *(Case(f"checkpoint_{name}", RESUME, words=words, make=checkpoint(change),
           fast=name.startswith(("optimizer", "average", "step_t")))
      for name, change, words in CONTENTS),
    Case("entry_named_in_two_lines", READ.replace("\n", " ", 1), 0, r"entry archive/data/\\\\n",
         _entry_named_in_two_lines, fast=True),
    Case("checkpoint_cut_newest", RESUME, 0, "falling back", cut_newest),
    Case("checkpoint_newest_is_a_folder", RESUME, 2,
         r"step_00000004.pt: cannot be written .*it is a folder", newest_is_a_folder),
    Case("convert_nan", CONVERT.format("x.pth", "y.safetensors"), words=FINITE,
         make=state(value(float("nan"))), fast=True),
    Case("convert_into_proc", CONVERT.format("x.pth", "/proc/x.pth"), words="cannot be written",
         make=state(lambda content: None)),
    Case("convert_onto_a_folder", CONVERT.format("x.pth", "y.safetensors"), words="is a folder",
         make=both(state(lambda content: None),
                   lambda world, folder: (folder / "y.safetensors").mkdir())),
    Case("pack_into_proc", "pack_weights x.pth /proc/x.safetensors", words="cannot be written",
         make=state(lambda content: None)),
    Case("pack_nan", "pack_weights x.pth y.safetensors", words=FINITE,
         make=state(value(float("nan")))),
]  # fmt: skip
