"""What is no weights, or none to compute with, is one line: in every loader, from one place."""

import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import frozenseg
from frozenseg.build.models import build_model
from frozenseg.checkpoints.frozen_weights import FrozenPart, load_part
from frozenseg.checkpoints.state_dict import LARGEST, load_state, packed, read_state, write_state
from frozenseg.commands import convert_checkpoint
from frozenseg.config import load_config
from frozenseg.devtools.commands import pack_weights
from frozenseg.encoders.sam import build_sam_model
from frozenseg.errors import UserError
from frozenseg.models.base import evaluation_mode
from tests.conftest import TINY_OPTIONS, build_tiny

NAME = "mask_decoder.norm.weight"


def spoilt(value: float) -> dict[str, Tensor]:
    state = {name: tensor.clone() for name, tensor in build_tiny().state_dict().items()
             if "query_injector" not in name}  # fmt: skip
    state[NAME].view(-1)[3] = value
    return state


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_numbers_that_are_none_are_named(value: float, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    torch.save(spoilt(value), path) if suffix == ".pth" else write_state(path, spoilt(value))
    message = rf"weights {path}: 1 of \d+ entries hold numbers that are not finite .*{NAME}"
    config = tmp_path / "c.yaml"
    config.write_text(load_config(None, TINY_OPTIONS).dump())
    for load in (
        lambda: read_state(path),
        lambda: frozenseg.load(config, weights=path),
        lambda: convert_checkpoint.main(["--config-file", str(config), str(path),
                                         str(tmp_path / "y.safetensors")]),
        lambda: pack_weights.main([str(path), str(tmp_path / "y.safetensors")]),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            load()
    assert not (tmp_path / "y.safetensors").exists()
    with pytest.raises(UserError, match="not finite"):  # of a checkpointer, past `read_state`
        load_state(build_tiny(), spoilt(value), "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_infinity_is_none_in_any_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: tensor.to(dtype) for name, tensor in spoilt(float("inf")).items()}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=rf"1 of \d+ entries .* not finite .*{NAME}"):
        read_state(tmp_path / "x.pth")


def test_the_largest_number_is_taken() -> None:
    state = spoilt(LARGEST)
    load_state(build_tiny(), state, "x")


def test_frozen_encoders_are_checked_too(tmp_path: Path) -> None:
    state = build_sam_model("tiny").state_dict()
    state["image_encoder.pos_embed"] = torch.full_like(state["image_encoder.pos_embed"], torch.nan)
    write_state(tmp_path / "sam.safetensors", state)
    with pytest.raises(UserError, match=r"sam\.safetensors: 1 of .*image_encoder\.pos_embed"):
        load_part(
            FrozenPart("sam", build_sam_model("tiny"), lambda: tmp_path / "sam.safetensors"), True
        )
    clip = build_tiny().clip.model.state_dict()
    clip["text_projection"] = clip["text_projection"] / 0
    write_state(tmp_path / "clip.safetensors", clip)
    options = ["MODEL.FROZEN_SEG.CLIP_PRETRAINED_WEIGHTS", str(tmp_path / "clip.safetensors")]
    (tmp_path / "c.yaml").write_text(load_config(None, [*TINY_OPTIONS, *options]).dump())
    with pytest.raises(UserError, match=r"clip\.safetensors: 1 of .*text_projection"):
        frozenseg.load(tmp_path / "c.yaml")


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_whole_numbers_are_no_weights(dtype: torch.dtype) -> None:
    state = spoilt(0.5)
    state[NAME] = torch.ones_like(state[NAME]).to(dtype)
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(UserError, match=rf"1 of another type \({NAME} {kind}, the model"):
        load_state(build_tiny(), state, "x")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2).to_sparse(),
        torch.ones(2, device="meta"),
        torch.ones(2).to(torch.float8_e4m3fn),
    ],
)
def test_kinds_without_plain_numbers(tensor: Tensor, tmp_path: Path) -> None:
    torch.save({"w": tensor}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"1 of 1 entries hold no plain|cannot be read"):
        read_state(tmp_path / "x.pth")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    torch.save({1: torch.ones(2)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="a state dict .* was expected"):
        read_state(tmp_path / "x.pth")


def test_a_flipped_bit_in_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"w": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged \(entry .*data/0\); get it again"):
        read_state(path)


def test_torchscript_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "RN50x64.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("RN50x64/constants.pkl", b"x")
        archive.writestr("RN50x64/data.pkl", b"x")
    with pytest.raises(UserError, match=r"a TorchScript archive, which is a program"):
        read_state(path)


@pytest.mark.parametrize(
    "text",
    [
        b"Repository not found",
        b"<?xml version='1.0'?><Error/>",
        b"\n\n <Error><Code>AccessDenied</Code></Error>",
        b"\xef\xbb\xbf<!DOCTYPE html>",
        b'{"message": "Not Found"}',
        "\u00e9".encode() * 50,  # the first 64 bytes end between two letters, or in one
        b"x" + "\u00e9".encode() * 50,
    ],
)
def test_what_a_failed_download_leaves(text: bytes, tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        (tmp_path / f"x{suffix}").write_bytes(text)
        with pytest.raises(UserError, match="a web page or other text in place"):
            read_state(tmp_path / f"x{suffix}")
        (tmp_path / f"x{suffix}").write_bytes(b"")
        with pytest.raises(UserError, match="an empty file, as a failed download leaves it"):
            read_state(tmp_path / f"x{suffix}")


def test_safetensors_under_any_name(tmp_path: Path) -> None:
    write_state(tmp_path / "x.safetensors", {"w": torch.ones(2)})
    for name in ("x.SAFETENSORS", "x.pth", "x"):
        (tmp_path / name).write_bytes((tmp_path / "x.safetensors").read_bytes())
        assert list(read_state(tmp_path / name)) == ["w"]


def test_no_entry_takes_the_place_of_another(tmp_path: Path) -> None:
    """A prefix that all names have is taken off; of two names, none becomes the other."""
    torch.save({"module.a": torch.ones(1), "module.b": torch.ones(1)}, tmp_path / "x.pth")
    assert list(read_state(tmp_path / "x.pth")) == ["a", "b"]
    torch.save({"a": torch.ones(1), "module.a": torch.zeros(1)}, tmp_path / "x.pth")
    assert list(read_state(tmp_path / "x.pth")) == ["a", "module.a"]


@pytest.mark.parametrize("name", ["../../config.py", "small/../../../x.pth"])
def test_names_of_the_package_stay_in_it(name: str) -> None:
    with pytest.raises(UserError, match="leads out of the package"):
        frozenseg.load("small", options=["MODEL.SAM_WEIGHTS", f"frozenseg://{name}"])


@pytest.mark.parametrize(
    "length",
    [[7, 7], [], [float("nan")], [-5], [10**9]],
    ids=["two", "none", "nan", "below", "large"],
)
def test_tables_of_no_length(length: list[float], tmp_path: Path) -> None:
    table = torch.zeros(100, 40)
    table[3] = 1
    state = packed({"t": table}) | {"t@length": torch.tensor(length)}
    write_state(tmp_path / "x.safetensors", state)
    with pytest.raises(UserError, match="the rows of t do not fit|not finite"):
        read_state(tmp_path / "x.safetensors")


def small_file(folder: Path, kind: str) -> bytes:
    state = {"a.weight": torch.arange(12.0).view(3, 4), "b": torch.ones(5)}
    path = folder / f"small.{kind}"
    if kind == "safetensors":
        write_state(path, state)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "pth")
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["safetensors", "pth", "tar"])
@settings(derandomize=True, deadline=None, max_examples=120,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.data())
def test_mutated_files_load_or_are_one_line(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    """The old torch format, too (`tar`): cut, bytes exchanged, pieces put in."""
    content = bytearray(small_file(tmp_path, kind))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        match data.draw(st.sampled_from(["cut", "byte", "insert"])):
            case "cut":
                del content[place:]
            case "byte" if content:
                content[place] = data.draw(st.integers(0, 255))
            case _:
                content[place:place] = data.draw(st.binary(max_size=6))
    path = tmp_path / f"mutated.{'pth' if kind == 'tar' else kind}"
    path.write_bytes(content)
    try:
        state = read_state(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert all(torch.isfinite(tensor.float()).all() for tensor in state.values())


def test_evaluation_mode_gives_every_part_its_own_back() -> None:
    model = build_model(load_config(None, TINY_OPTIONS)).train()
    model.pixel_decoder.eval()
    before = [part.training for part in model.modules()]
    assert any(before) and not all(before)
    with pytest.raises(ValueError, match="x"), evaluation_mode(model):
        assert not any(part.training for part in model.modules())
        raise ValueError("x")
    assert [part.training for part in model.modules()] == before
