"""Features kept on disk: the numbers of a run without, and nothing is encoded twice."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from frozenseg.build.models import build_model, feature_fingerprint
from frozenseg.commands import run as run_command
from frozenseg.commands.train_net import main
from frozenseg.config import load_config
from frozenseg.encoders.clip import FrozenClip
from frozenseg.encoders.sam import FrozenSam
from frozenseg.engine import feature_cache
from frozenseg.engine.feature_cache import FeatureCache, image_key, to_tensors
from frozenseg.errors import UserError
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.runtime.precision import Precision
from frozenseg.structures import ImageBatch
from frozenseg.tensor_store import folder_bytes, read_tensors, write_tensors
from tests.conftest import FC_CLIP_OPTIONS, RESNET_OPTIONS, TINY_OPTIONS
from tests.disk import files_end_at
from tests.engine.test_fusioner import FUSIONER
from tests.engine.test_trainer import assert_close_losses, assert_same_run, interrupt_at_step, start
from tests.engine.tiny import TinyRun

CPU = torch.device("cpu")
# One view of each of the five images; no evaluation, so that training alone calls the encoders.
FIXED = (
    "INPUT.MIN_SCALE", "1.0",
    "INPUT.MAX_SCALE", "1.0",
    "INPUT.FLIP_PROBABILITY", "0.0",
    "DATASETS.TEST", "()",
)  # fmt: skip
ONE_BY_ONE = (*FIXED, "SOLVER.IMS_PER_BATCH", "1", "SOLVER.MAX_ITER", "12")


def kept(run: TinyRun, *options: str, folder: str = "features") -> tuple[str, ...]:
    return ("DATALOADER.FEATURE_CACHE", str(run.root / folder), *options)


def files(run: TinyRun, folder: str = "features") -> list[Path]:
    return sorted((run.root / folder).rglob("*.safetensors"))


def contents(run: TinyRun) -> dict[str, dict[str, Tensor]]:
    found = {path.name: read_tensors(path) for path in files(run)}
    return {name: tensors for name, tensors in found.items() if tensors is not None}


def assert_same_files(first: dict[str, dict[str, Tensor]], second: dict[str, dict[str, Tensor]]):
    assert first.keys() == second.keys()
    for name, tensors in first.items():
        assert tensors.keys() == second[name].keys()
        assert all(torch.equal(tensor, second[name][key]) for key, tensor in tensors.items())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The encoders that have been asked, and for how many images."""
    made: list[tuple[str, int]] = []
    see, embed = FrozenClip.forward, FrozenSam.forward

    def clip(self: FrozenClip, pixels: Tensor):
        made.append(("clip", len(pixels)))
        return see(self, pixels)

    def sam(self: FrozenSam, images: ImageBatch, square: Tensor | None = None):
        made.append(("sam", len(images.sizes)))
        return embed(self, images, square)

    monkeypatch.setattr(FrozenClip, "forward", clip)
    monkeypatch.setattr(FrozenSam, "forward", sam)
    return made


@pytest.mark.parametrize(
    "family",
    [
        (),
        ("MODEL.FROZEN_SEG.SAM_VIEW", "keep_aspect", *RESNET_OPTIONS),
        FC_CLIP_OPTIONS,
        FUSIONER,
    ],
    ids=["FrozenSeg", "ResNet", "FC-CLIP", "Fusioner"],
)
def test_same_numbers_as_without(run: TinyRun, family: tuple[str, ...]) -> None:
    """To the last bit, over images computed, read in their second epoch, and mirrored."""
    options = (*ONE_BY_ONE, *family, "INPUT.FLIP_PROBABILITY", "0.5")
    assert main(run.arguments("plain", *options)) == 0
    assert main(run.arguments("kept", *options, *kept(run))) == 0
    assert 5 < len(files(run)) <= 10  # some of both views
    assert_same_run(run, "plain", "kept")
    assert main(run.arguments("again", *options, *kept(run))) == 0  # from the disk alone
    assert_same_run(run, "plain", "again")


def test_encoders_are_asked_once_an_image(run: TinyRun, calls, caplog) -> None:
    caplog.set_level("INFO")
    assert main(run.arguments("out", *ONE_BY_ONE, *kept(run))) == 0
    assert sorted(calls) == [("clip", 1)] * 5 + [("sam", 1)] * 5
    assert "features: 7 from" in caplog.text and "5 encoded" in caplog.text
    calls.clear()
    assert main(run.arguments("again", *ONE_BY_ONE, *kept(run))) == 0
    assert calls == []


def test_fixed_views_are_encoded_once_each(run: TinyRun, calls) -> None:
    """Two views of each of five images, at scales that would never come again without the key."""
    views = ("INPUT.FIXED_VIEWS", "2", "DATASETS.TEST", "()", "SOLVER.IMS_PER_BATCH", "1")
    assert main(run.arguments("out", *views, "SOLVER.MAX_ITER", "15", *kept(run))) == 0
    assert sorted(calls) == [("clip", 1)] * 10 + [("sam", 1)] * 10
    assert main(run.arguments("plain", *views, "SOLVER.MAX_ITER", "15")) == 0
    assert_same_run(run, "plain", "out")


def test_batches_do_not_matter_to_what_is_kept(run: TinyRun, calls) -> None:
    """Filled by batches of four in two passes, and read by a run of other batches."""
    four = (*FIXED, "SOLVER.IMS_PER_BATCH", "4", "SEED", "8")
    assert main(run.arguments("plain", *four)) == 0
    calls.clear()
    assert main(run.arguments("kept", *four, "SOLVER.ACCUMULATE", "2", *kept(run))) == 0
    assert sorted(calls) == [("clip", 1)] * 5 + [("sam", 1)] * 5
    assert_close_losses(run, "plain", "kept")
    assert main(run.arguments("single", *ONE_BY_ONE)) == 0
    assert main(run.arguments("single_kept", *ONE_BY_ONE, *kept(run))) == 0
    assert_same_run(run, "single", "single_kept")


def test_stopped_and_resumed(run: TinyRun, monkeypatch, calls) -> None:
    assert main(run.arguments("whole", *ONE_BY_ONE)) == 0
    with monkeypatch.context() as patch:
        interrupt_at_step(7, patch)
        assert main(run.arguments("parts", *ONE_BY_ONE, *kept(run))) == 130
    calls.clear()
    assert main(run.arguments("parts", *ONE_BY_ONE, *kept(run), flags=("--resume",))) == 0
    assert calls == []
    assert_same_run(run, "whole", "parts")


def test_a_full_folder_is_said_once(run: TinyRun, caplog, calls) -> None:
    assert main(run.arguments("out", *ONE_BY_ONE, *kept(run))) == 0
    size = files(run)[0].stat().st_size
    room = ("DATALOADER.FEATURE_CACHE_GB", str(2.5 * size / 1e9))
    calls.clear()
    caplog.clear()
    assert main(run.arguments("full", *ONE_BY_ONE, *kept(run, *room, folder="small"))) == 0
    assert len(files(run, "small")) == 2 and folder_bytes(run.root / "small") < 2.5 * size
    assert caplog.text.count("full at") == 1
    assert 5 < calls.count(("clip", 1)) < 12  # two of the images are still read
    assert_same_run(run, "out", "full")


def test_a_folder_is_not_walked_for_every_image(run: TinyRun, monkeypatch) -> None:
    walks: list[Path] = []

    def counted(folder: Path) -> int:
        walks.append(folder)
        return folder_bytes(folder)

    monkeypatch.setattr(feature_cache, "folder_bytes", counted)
    assert main(run.arguments("out", *ONE_BY_ONE, *kept(run))) == 0
    assert len(files(run)) == 5 and len(walks) == 1


@pytest.mark.parametrize("writers", [1, 3])
def test_the_limit_holds_for_all_writers_together(
    tiny_resnet: FrozenSeg, tmp_path: Path, writers: int
) -> None:
    """Each takes it that the others write as much as itself, and looks when that comes to the
    limit: here a single one writes until the folder is full."""
    images = [ImageBatch.collate([torch.full((3, 32, 32), float(n))], 32) for n in range(12)]
    size = sum(t.nbytes for t in to_tensors(tiny_resnet.encode(images[0])).values())
    cache = FeatureCache(
        tmp_path,
        fingerprint="x",
        limit=8 * size,
        encode=tiny_resnet.encode,
        channels=tiny_resnet.feature_channels(),
        writers=writers,
    )
    for image in images:
        cache(image, CPU)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 7  # each has a header, too
    assert folder_bytes(tmp_path) <= 8 * size


def roomy_cache(model: FrozenSeg, folder: Path) -> FeatureCache:
    return FeatureCache(
        folder,
        fingerprint="x",
        limit=10**9,
        encode=model.encode,
        channels=model.feature_channels(),
    )


def test_a_full_disk_costs_time_not_the_features(
    tiny_resnet: FrozenSeg, tiny_images: ImageBatch, tmp_path: Path, caplog
) -> None:
    cache = roomy_cache(tiny_resnet, tmp_path)
    with files_end_at(1000):
        first, second = cache(tiny_images, CPU), cache(tiny_images, CPU)
    assert caplog.text.count("File too large") == 1
    assert (cache.misses, cache.hits) == (4, 0)
    assert torch.equal(first.clip.dense, second.clip.dense)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_pipe_in_the_folder_is_damage(tmp_path: Path, caplog) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    assert read_tensors(tmp_path / "x.safetensors") is None
    assert "no regular file" in caplog.text


def test_a_folder_that_cannot_be_written_is_no_obstacle(run: TinyRun, caplog) -> None:
    (run.root / "features").write_text("a file where the folder should be")
    assert main(run.arguments("out", *ONE_BY_ONE)) == 0
    caplog.clear()
    assert main(run.arguments("kept", *ONE_BY_ONE, *kept(run))) == 0
    assert caplog.text.count("it is only read") == 1
    assert_same_run(run, "out", "kept")


def cut(content: bytes) -> bytes:
    return content[:-100]


def flip_a_bit(content: bytes) -> bytes:
    return content[:-50] + bytes([content[-50] ^ 4]) + content[-49:]


@pytest.mark.parametrize("damage", [cut, flip_a_bit, lambda content: b""])
def test_damaged_files_are_made_anew(run: TinyRun, caplog, calls, damage) -> None:
    assert main(run.arguments("out", *ONE_BY_ONE, *kept(run))) == 0
    whole = contents(run)
    for path in files(run)[:2]:
        path.write_bytes(damage(path.read_bytes()))
    calls.clear()
    caplog.clear()
    assert main(run.arguments("again", *ONE_BY_ONE, *kept(run))) == 0
    assert caplog.text.count("damaged and left aside") == 2
    assert sorted(calls) == [("clip", 1)] * 2 + [("sam", 1)] * 2
    assert_same_run(run, "out", "again")
    assert_same_files(contents(run), whole)


def test_other_encoders_find_nothing(run: TinyRun, calls) -> None:
    """Weights are random here, by the seed."""
    assert main(run.arguments("out", *ONE_BY_ONE, *kept(run))) == 0
    calls.clear()
    assert main(run.arguments("other", *ONE_BY_ONE, *kept(run), "SEED", "8")) == 0
    assert sorted(calls) == [("clip", 1)] * 5 + [("sam", 1)] * 5
    assert len(list((run.root / "features").iterdir())) == 2


def fingerprint(*options: str, precision: str = "fp32", change: str = "") -> str:
    """change: the name of a weight to be moved by a little."""
    cfg = load_config(None, [*TINY_OPTIONS, "SEED", "0", *options])
    model = build_model(cfg)
    if change:
        model.state_dict()[change].view(-1)[0] += 1e-3
    return feature_fingerprint(cfg, model, Precision.choose(CPU, precision))


def test_all_that_decides_features_is_in_the_fingerprint() -> None:
    plain = fingerprint()
    same = [
        fingerprint(),
        fingerprint("SOLVER.BASE_LR", "1.0", "MODEL.FROZEN_SEG.SAM_ENCODER_LEVELS", "1"),
        fingerprint(change="void_embedding"),
        fingerprint(change="clip.model.token_embedding.weight"),
        fingerprint(change="sam.model.mask_decoder.iou_token.weight"),
    ]
    assert set(same) == {plain}
    others = [
        fingerprint(precision="bf16"),
        fingerprint("MODEL.FROZEN_SEG.SAM_VIEW", "keep_aspect"),
        fingerprint("MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]"),
        fingerprint(*FC_CLIP_OPTIONS),
        fingerprint(change="clip.model.visual.trunk.stem.0.bias"),
        fingerprint(change="sam.model.image_encoder.pos_embed"),
        fingerprint(*FUSIONER),
        fingerprint(*FUSIONER, change="visual.model.proj"),
        fingerprint(*FUSIONER, "MODEL.PIXEL_STD", "[1.0, 2.0, 3.0]"),
    ]
    assert len({plain, *others}) == 1 + len(others)


def test_all_that_the_encoders_get_is_in_the_key() -> None:
    pixels = torch.randint(0, 256, (3, 30, 40)).float()
    other = pixels.clone()
    other[1, 2, 3] += 1
    images = [
        ImageBatch.collate([pixels], 32),
        ImageBatch.collate([pixels], 32, [(30, 39)]),  # the last column is padding
        ImageBatch.collate([pixels], 64),
        ImageBatch.collate([other], 32),
        replace(ImageBatch.collate([pixels], 32), padding=-1.0),  # beyond the image
    ]
    assert len({image_key(image) for image in images}) == len(images)
    assert image_key(ImageBatch.collate([pixels.clone()], 32)) == image_key(images[0])


def test_types_and_order_in_memory_are_kept(tmp_path: Path) -> None:
    last = torch.randn(1, 4, 3, 5).contiguous(memory_format=torch.channels_last)
    wanted = {"half": torch.randn(1, 3, 3, 3).bfloat16(), "last": last, "res5": torch.randn(1, 7)}
    write_tensors(tmp_path / "x.safetensors", wanted)
    found = read_tensors(tmp_path / "x.safetensors")
    assert found is not None and found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and found[name].stride() == tensor.stride()
        assert torch.equal(found[name], tensor)


def test_mixed_precision_is_kept_as_it_is(
    tiny_resnet: FrozenSeg, tiny_images: ImageBatch, tmp_path: Path
) -> None:
    cache = roomy_cache(tiny_resnet, tmp_path)
    with Precision.choose(CPU, "bf16").autocast():
        first, second = cache(tiny_images, CPU), cache(tiny_images, CPU)
        alone = tiny_resnet.encode(ImageBatch(tiny_images.pixels[1:], tiny_images.sizes[1:]))
    assert (cache.misses, cache.hits) == (2, 2)
    assert {tensor.dtype for tensor in to_tensors(first).values()} > {torch.float32}
    for name, tensor in to_tensors(first).items():
        again = to_tensors(second)[name]
        assert again.dtype == tensor.dtype and torch.equal(again, tensor)
        assert torch.equal(to_tensors(alone)[name], tensor[1:])
    assert torch.equal(second.clip.dense, first.clip.dense)


@pytest.mark.parametrize("scales", [("0.8", "1.2"), ("1.5", "1.5")])
def test_views_without_end_are_refused(run: TinyRun, monkeypatch, capsys, scales) -> None:
    view = ("INPUT.MIN_SCALE", scales[0], "INPUT.MAX_SCALE", scales[1])
    arguments = run.arguments("out", *ONE_BY_ONE, *view, *kept(run))
    monkeypatch.setattr(sys, "argv", ["train_net.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: DATALOADER.FEATURE_CACHE")
    assert "INPUT.MIN_SCALE and INPUT.MAX_SCALE" in said
    assert not (run.root / "features").exists()


def test_room_must_be_above_nothing(run: TinyRun) -> None:
    none = ("DATALOADER.FEATURE_CACHE_GB", "0")
    with pytest.raises(UserError, match=r"DATALOADER\.FEATURE_CACHE_GB 0\.0: must be above 0"):
        main(run.arguments("out", *ONE_BY_ONE, *kept(run, *none)))


@pytest.mark.slow
def test_two_processes_share_a_folder(run: TinyRun) -> None:
    four = (*FIXED, "SOLVER.IMS_PER_BATCH", "4", "SEED", "8")
    assert main(run.arguments("one", *four, *kept(run))) == 0
    filled = contents(run)
    shutil.rmtree(run.root / "features")
    assert start(run, "two", *four, *kept(run), flags=("--num-gpus", "2")).wait() == 0
    assert_same_files(contents(run), filled)
    assert not [name for _, _, names in os.walk(run.root / "features") for name in names
                if name.startswith(".")]  # fmt: skip
    assert_close_losses(run, "one", "two")
