"""Checkpoints: names, strictness, safety, and both directions between published and ours."""

import json
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from frozenseg.build.models import build_model, load_model
from frozenseg.checkpoints.published_names import from_published, is_published, to_published
from frozenseg.checkpoints.state_dict import (
    load_state,
    model_state,
    packed,
    read_state,
    trainable_state,
    write_state,
)
from frozenseg.config import load_config
from frozenseg.devtools.commands import pack_weights
from frozenseg.encoders.frozen import Frozen, frozen_parts
from frozenseg.errors import UserError
from frozenseg.models.base import SegmentationModel
from frozenseg.models.frozenseg import FrozenSeg
from tests.conftest import FC_CLIP_OPTIONS, RESNET_OPTIONS, TINY_OPTIONS, build_tiny


def published_state(model: FrozenSeg) -> dict[str, Tensor]:
    """As a released file holds it: everything, under detectron2's names, with training state."""
    state = to_published(model_state(model))
    state["criterion.empty_weight"] = torch.ones(134)
    return state


def same(model: FrozenSeg, other: FrozenSeg) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.reference
def test_published_names_go_there_and_back(reference: Path) -> None:
    shapes = json.loads((reference / "convnext_large.state_dict.json").read_text())
    published = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    ours = from_published(published)
    assert all(
        name.startswith("criterion.") for name in published.keys() - to_published(ours).keys()
    )
    assert to_published(ours).keys() <= published.keys()
    # No two entries share a name, and no tensor changed places.
    again = to_published(ours)
    assert len(again) == len(ours) and all(again[name] is published[name] for name in again)


@pytest.mark.reference
def test_published_names_and_shapes_are_those_of_our_model(reference: Path) -> None:
    shapes = json.loads((reference / "convnext_large.state_dict.json").read_text())
    ours = from_published(
        {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    )
    with torch.device("meta"):
        model = build_model(load_config(None, []))
    wanted = {
        name: tensor.shape
        for name, tensor in model_state(model).items()
        if not name.endswith("num_batches_tracked")
    }
    assert {name: tensor.shape for name, tensor in ours.items()} == wanted


@pytest.mark.parametrize("options", [(), RESNET_OPTIONS, FC_CLIP_OPTIONS])
def test_a_published_checkpoint_loads_whole(options: tuple[str, ...]) -> None:
    source, target = build_tiny(*options, seed=1), build_tiny(*options, seed=2)
    assert not same(source, target)
    parts = load_state(target, published_state(source), "x.pth")
    assert same(source, target)
    assert parts == ({"clip"} if options is FC_CLIP_OPTIONS else {"clip", "sam"})


class Eyes(Frozen):
    def __init__(self) -> None:
        super().__init__()
        self.inner = self.freeze(nn.Linear(2, 2))


class NewModel(SegmentationModel):
    """A trained part has the name of a frozen one of another family, a frozen one is nested."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Linear(2, 2)
        self.head = nn.ModuleDict({"eyes": Eyes(), "mouth": nn.Linear(2, 2)})


def test_a_part_is_frozen_by_its_type_whatever_its_name() -> None:
    model = NewModel().train()
    assert frozen_parts(model) == {"head.eyes"}
    trained = {"text.weight", "text.bias", "head.mouth.weight", "head.mouth.bias"}
    assert {name for name, _ in model.trainable_parameters()} == trained
    assert not model.head["eyes"].inner.training
    state = trainable_state(model)
    assert set(state) == trained
    other = NewModel()
    assert load_state(other, state, "x") == set()  # the frozen part may be absent as a whole
    assert torch.equal(other.text.weight, model.text.weight)
    assert load_state(other, model_state(model), "x") == {"head.eyes"}
    with pytest.raises(UserError, match="head.eyes.inner.bias"):
        load_state(other, {**state, "head.eyes.inner.weight": torch.ones(2, 2)}, "x")
    del state["text.bias"]
    with pytest.raises(UserError, match="text.bias"):
        load_state(other, state, "x")


def test_ours_holds_what_is_trained_and_loads_without_frozen_parts(tmp_path: Path) -> None:
    source, target = build_tiny(seed=1), build_tiny(seed=2)
    state = trainable_state(source)
    assert set(state) == {name for name, _ in source.trainable_parameters()}
    write_state(tmp_path / "model.safetensors", state)
    parts = load_state(target, read_state(tmp_path / "model.safetensors"), "model.safetensors")
    assert parts == set()
    theirs = target.state_dict()
    for name, tensor in source.state_dict().items():
        frozen = name.startswith(("clip.", "sam."))
        assert frozen or torch.equal(tensor, theirs[name]), name
    assert torch.equal(build_tiny(seed=2).state_dict()["clip.model.text_projection"],
                       theirs["clip.model.text_projection"])  # fmt: skip


def test_the_shared_projection_is_stored_once_and_stays_shared() -> None:
    source, target = build_tiny(seed=1), build_tiny(seed=2)
    assert not [name for name in model_state(source) if "query_injector" in name]
    load_state(target, trainable_state(source), "x")
    injector = target.mask_decoder.query_injector
    assert injector.projection is target.mask_decoder.pooling_projection
    assert torch.equal(
        injector.projection[1].weight, source.mask_decoder.pooling_projection[1].weight
    )


def refused(model: FrozenSeg, state: dict[str, Tensor], origin: str = "x.pth") -> str:
    """The error of a state that does not fit; the model must be as before."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_state(model, state, origin)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    return str(caught.value)


def test_every_wrong_entry_is_named_and_nothing_is_loaded() -> None:
    source, target = build_tiny(seed=1), build_tiny(seed=2)
    state = published_state(source)
    del state["sem_seg_head.predictor.logit_scale"]
    del state["backbone.clip_model.text_projection"]
    state["void_embedding.weight"] = torch.zeros(1, 31)
    state["sem_seg_head.predictor.mask_embed.layers.7.weight"] = torch.zeros(2)
    message = refused(target, state, "some/file.pth")
    assert message.startswith("weights some/file.pth do not fit the model: entries ")
    assert "2 missing (" in message and "clip.model.text_projection" in message
    assert "mask_decoder.logit_scale" in message
    assert "1 unexpected (mask_decoder.mask_embedding.layers.7.weight)" in message
    assert "1 of another shape (void_embedding (1, 31), the model has (1, 32))" in message


def test_a_name_of_no_rule_is_named() -> None:
    state = published_state(build_tiny(seed=1))
    state["sem_seg_head.predictor.surprise"] = torch.zeros(1)
    message = refused(build_tiny(seed=2), state)
    assert "not entries of a FrozenSeg checkpoint: sem_seg_head.predictor.surprise" in message


def test_many_wrong_entries_are_counted() -> None:
    message = refused(build_tiny(), {"mask_decoder.nothing": torch.zeros(1)})
    assert " missing (" in message and " more)" in message and len(message) < 1000


LEVELS = ["MODEL.FROZEN_SEG.SAM_ENCODER_LEVELS", "1"]


@pytest.mark.parametrize(
    ("trained", "options", "fact", "remedy"),
    [
        (
            FC_CLIP_OPTIONS,
            [],
            "The weights have no injectors",
            "Set MODEL.FROZEN_SEG.QUERY_INJECTOR and FEATURE_INJECTOR to False",
        ),
        (
            [],
            FC_CLIP_OPTIONS,
            "The weights have injectors",
            "Set MODEL.FROZEN_SEG.QUERY_INJECTOR and FEATURE_INJECTOR to True",
        ),
        (
            [],
            LEVELS,
            "trained with other encoder levels",
            "Set MODEL.FROZEN_SEG.SAM_ENCODER_LEVELS to 3 for published weights",
        ),
    ],
)
def test_hints_name_the_setting_that_fits(
    tmp_path: Path, trained: list[str], options: list[str], fact: str, remedy: str
) -> None:
    """The library tells the difference, the assembly what to set."""
    state = published_state(build_tiny(*trained))
    assert fact in refused(build_tiny(*options), state)
    write_state(tmp_path / "published.safetensors", state)
    weights = ["MODEL.WEIGHTS", str(tmp_path / "published.safetensors")]
    with pytest.raises(UserError, match=remedy):
        load_model(load_config(None, [*TINY_OPTIONS, *options, *weights]))


def test_old_files_without_batch_counts_load() -> None:
    source, target = build_tiny(*RESNET_OPTIONS, seed=1), build_tiny(*RESNET_OPTIONS, seed=2)
    state = published_state(source)
    counts = [name for name in state if name.endswith("num_batches_tracked")]
    assert counts
    for name in counts:
        del state[name]
    load_state(target, state, "x.pth")
    assert same(source, target)


def test_published_names_are_recognised() -> None:
    model = build_tiny()
    assert is_published(published_state(model)) and not is_published(model_state(model))


# ---- files


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_torch_files_with_and_without_wrapper(tmp_path: Path, wrapper: str | None) -> None:
    state = {"module.a": torch.ones(2), "module.b.c": torch.zeros(3)}
    path = tmp_path / "x.pth"
    torch.save({wrapper: state, "iteration": 5} if wrapper else state, path)
    read = read_state(path)
    assert read.keys() == {"a", "b.c"} and torch.equal(read["a"], torch.ones(2))


def test_of_a_training_checkpoint_the_average_is_read_and_what_has_none(tmp_path: Path) -> None:
    path, weights = tmp_path / "step_00000002.pt", {"a": torch.ones(2), "b": torch.zeros(3)}
    for average in ({}, {"a": torch.full((2,), 5.0)}):
        torch.save({"step": 2, "weights": weights, "average": average}, path)
        read = read_state(path)
        assert read.keys() == weights.keys() and torch.equal(read["b"], weights["b"])
        assert torch.equal(read["a"], average.get("a", weights["a"]))


class Touch:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path: Path) -> None:
    path, proof = tmp_path / "x.pth", tmp_path / "executed"
    torch.save({"model": {"a": torch.ones(1)}, "more": Touch(proof)}, path)
    with pytest.raises(UserError, match=r"x\.pth: .*holds more than tensors.*only its state dict"):
        read_state(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # the trap works


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "a web page", "a git-lfs pointer"])
def test_damaged_files_are_one_clear_line(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"x{suffix}"
    state = {"a": torch.ones(1000)}
    write_state(path, state) if suffix == ".safetensors" else torch.save(state, path)
    content = {
        "truncated": path.read_bytes()[:-200],
        "empty": b"",
        "a web page": b"<!DOCTYPE html><html><body>Not found</body></html>",
        "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n",
    }[damage]
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_state(path)
    message = str(caught.value)
    assert message.startswith(f"weights {path}: ") and "\n" not in message
    assert any(word in message for word in ("damaged", "incomplete", "not a checkpoint"))


@pytest.mark.parametrize("content", [[1, 2], {"a": 5}, {"model": {"a": "text"}}, torch.ones(2)])
def test_files_without_a_state_dict(tmp_path: Path, content: object) -> None:
    path = tmp_path / "x.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match="a state dict .* was expected"):
        read_state(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        read_state(tmp_path / "none.pth")
    with pytest.raises(UserError, match="is a folder; give the file in it"):
        read_state(tmp_path)
    with pytest.raises(UserError, match=r"https://a\.b/c\.pth: an address; fetch the file"):
        read_state("https://a.b/c.pth")
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\)"):
        read_state("a" * 300)


def test_views_and_transposed_tensors_are_written_right(tmp_path: Path) -> None:
    state = {"a": torch.arange(12.0).view(3, 4).T, "b": torch.arange(10)[::2]}
    write_state(tmp_path / "x.safetensors", state)
    read = read_state(tmp_path / "x.safetensors")
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_tensors_that_share_memory_are_written_each(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    state = {"a": whole, "same": whole, "row": whole[1], "turned": whole.T, "other": whole + 1}
    state |= {"empty": torch.zeros(0, 4), "empty too": torch.zeros(0, 4)}
    write_state(tmp_path / "x.safetensors", state)
    read = read_state(tmp_path / "x.safetensors")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_a_pipe_is_written_to_as_it_stands(tmp_path: Path) -> None:
    pipe, got = tmp_path / "x.safetensors", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_state(pipe, {"x": torch.arange(3)})
    reader.join(10)
    assert pipe.is_fifo() and got == [save({"x": torch.arange(3)})]


def test_packed_tables_come_back_whole(tmp_path: Path) -> None:
    table = torch.zeros(1000, 4)
    table[[3, 998]] = torch.randn(2, 4)
    state = {"table": table, "full": torch.randn(6, 4), "gain": torch.zeros(5), "n": torch.ones(())}
    path = tmp_path / "packed.safetensors"
    write_state(path, packed(state))
    assert path.stat().st_size < 1000
    found = read_state(path)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor)


def test_packed_tables_are_small_together(tmp_path: Path) -> None:
    """A file of 1 kB must not take gigabytes, in however many tables."""
    state = {}
    for name in "ab":
        state[f"{name}@places"] = torch.zeros(1, dtype=torch.int32)
        state[f"{name}@values"] = torch.zeros(1, 1, dtype=torch.uint8)
        state[f"{name}@length"] = torch.tensor([60_000_000])
    write_state(tmp_path / "packed.safetensors", state)
    with pytest.raises(UserError, match="the rows of b do not fit"):
        read_state(tmp_path / "packed.safetensors")


@pytest.mark.parametrize(
    "wrong",
    [
        {"table@length": torch.tensor([2**31 - 1], dtype=torch.int32)},
        {"table@places": torch.tensor([3, 1000], dtype=torch.int32)},
        {"table@places": torch.tensor([3], dtype=torch.int32)},
        {"table@values": torch.randn(2)},
        {
            "table@length": torch.tensor([-1]),
            "table@places": torch.zeros(0, dtype=torch.int32),
            "table@values": torch.zeros(0, 0),
        },
    ],
)
def test_packed_rows_that_do_not_fit(tmp_path: Path, wrong: dict[str, torch.Tensor]) -> None:
    table = torch.zeros(1000, 4)
    table[[3, 998]] = 1
    write_state(tmp_path / "packed.safetensors", packed({"table": table}) | wrong)
    with pytest.raises(UserError, match="the rows of table do not fit"):
        read_state(tmp_path / "packed.safetensors")


def test_the_packing_command_halves_and_its_file_loads(tmp_path: Path, capsys) -> None:
    model = build_tiny()
    write_state(tmp_path / "whole.safetensors", trainable_state(model))
    pack_weights.main([str(tmp_path / "whole.safetensors"), str(tmp_path / "small.safetensors")])
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("small", "whole")]
    assert sizes[0] < 0.55 * sizes[1]
    assert "MB" in capsys.readouterr().out
    other = build_tiny()
    load_state(other, read_state(tmp_path / "small.safetensors"), "small")
    for name, tensor in trainable_state(model).items():
        assert torch.allclose(trainable_state(other)[name], tensor, rtol=1e-3, atol=1e-6)
    link = tmp_path / "link.safetensors"
    link.symlink_to(tmp_path / "whole.safetensors")
    before = link.read_bytes()
    with pytest.raises(UserError, match=r"link.safetensors: is an input too"):
        pack_weights.main([str(tmp_path / "whole.safetensors"), str(link)])
    assert link.read_bytes() == before
    write_state(tmp_path / "large.safetensors", {"x": torch.tensor([1e6])})
    with pytest.raises(UserError, match="x: holds numbers beyond half precision"):
        pack_weights.main([str(tmp_path / "large.safetensors"), str(tmp_path / "y.safetensors")])
