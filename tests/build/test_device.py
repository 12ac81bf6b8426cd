"""Which GPU is used, and that what a model is known by does not depend on it."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import frozenseg
from frozenseg.build.device import build_device, prepare_for_inference, process_device
from frozenseg.build.models import load_model
from frozenseg.build.prediction import build_online_proposals, proposal_identity
from frozenseg.build.prediction_settings import load_with_settings
from frozenseg.config import load_config
from frozenseg.engine import distributed
from frozenseg.inference.segment import ModelOutput, Pipeline
from frozenseg.small_world.pictures import demo_scenes
from tests.engine.tiny import CONFIG


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Makes PyTorch say so; the devices that are the current one, the innermost last."""
    current = [torch.device("cuda", 0)]

    @contextmanager
    def device(chosen: torch.device):
        current.append(chosen)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", device)
    return current


def test_a_process_alone_has_the_gpu_that_was_asked_for(
    two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load_config(None, ["MODEL.DEVICE", "cuda:1"])
    assert build_device(cfg) == process_device(cfg) == torch.device("cuda", 1)
    assert process_device(load_config(None, ["MODEL.DEVICE", "cuda"])) == torch.device("cuda", 0)
    monkeypatch.setattr("frozenseg.build.device.world_size", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert distributed.local_rank() == 0
    assert process_device(cfg) == torch.device("cuda", 0)  # of several, each has its own


def test_the_gpu_of_the_model_is_the_current_one(two_gpus: list[torch.device]) -> None:
    """Streams, CUDA graphs and Triton's kernels are of the current GPU."""
    seen = []
    model = SimpleNamespace(device=torch.device("cuda", 1), size_divisor=1)
    pipeline = Pipeline(model=model, post_processor=None, precision=None)
    pipeline._predict = lambda requests, text: seen.append(two_gpus[-1])
    pipeline._finish = lambda output, vocabulary: seen.append(two_gpus[-1])
    pipeline.predict([SimpleNamespace(image=torch.zeros(3, 4, 4))], None)
    pipeline.finish(SimpleNamespace(spec=ModelOutput), None)
    assert seen == [model.device] * 2 and two_gpus == [torch.device("cuda", 0)]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_second_gpu_gives_what_the_first_one_gives() -> None:
    images = [scene.image for scene in demo_scenes()[:4]]
    words = "star; circle; grass; sky"
    found = [
        [r.panoptic.ids.tolist() for r in frozenseg.load(device=f"cuda:{n}").batch(images, words)]
        for n in range(2)
    ]
    assert found[0] == found[1]


def test_predictions_are_known_by_the_weights_in_the_files(tmp_path: Path) -> None:
    """On a CPU blocks are folded, in half precision weights are cast."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(CONFIG)
    options = ["DATASETS.TRAIN_VOCABULARY", "small_world_seen"]
    digests = {
        load_with_settings(str(recipe), options=[*options, *more])[1]["weights"]
        for more in ((), ("MODEL.PRECISION", "bf16"), ("MODEL.COMPILE", "True"))
    }
    assert len(digests) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masks_on_disk_are_known_by_the_weights_in_the_file(precision: str, tmp_path: Path) -> None:
    """Those of the SAM that the injectors share, whose weights are cast."""
    masks = ["TEST.USE_SAM_MASKS", "True", "TEST.SAM_MASKS.FOLDER", str(tmp_path)]
    cfg = load_config("small/frozenseg", [*masks, "MODEL.PRECISION", precision])
    model, _ = load_model(cfg)
    prepare_for_inference(cfg, model)
    own = build_online_proposals(cfg, model.sam, model.device)
    alone = build_online_proposals(cfg, None, model.device)
    assert own.sam is model.sam is not alone.sam
    assert proposal_identity(cfg, own) == proposal_identity(cfg, alone)
