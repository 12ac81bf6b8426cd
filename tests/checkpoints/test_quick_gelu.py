"""Which activation a CLIP is built with: one decision, from what is known of its weights."""

from pathlib import Path

import pytest
import torch

from frozenseg.build.clip import uses_quick_gelu
from frozenseg.build.frozenseg import build_clip
from frozenseg.build.models import build_model
from frozenseg.checkpoints.state_dict import write_state
from frozenseg.config import load_config
from frozenseg.encoders.clip_text import has_quick_gelu
from frozenseg.errors import UserError
from tests.conftest import TINY_OPTIONS, build_tiny
from tests.engine.test_fusioner import FUSIONER


def decided(name: str, weights: str, choice: str = "auto", allow_random: bool = False) -> bool:
    return uses_quick_gelu(
        name=name, weights=weights, choice=choice, key="SOME.KEY", allow_random=allow_random
    )


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("RN50x64", "openai", True),
        ("RN50x64", "pretrained_checkpoint/RN50x64-openai.safetensors", True),
        ("RN50x64", "elsewhere/mine.pt", True),  # all that is known of it is OpenAI's
        ("ViT-L-14", "openai", True),
        ("ViT-L-14", "dfn2b", True),
        ("ViT-L-14", "dfn2b_s39b", False),
        ("ViT-L-14", "laion2b_s32b_b82k", False),
        ("ViT-L-14", "some/where/ViT-L-14-openai.safetensors", True),
        ("ViT-L-14", "some/where/ViT-L-14-laion2b_s32b_b82k.bin", False),
        ("ViT-L-14", "hub/vit_large_patch14_clip_224.openai/open_clip_model.safetensors", True),
        (
            "ViT-L-14",
            "hub/models--laion--CLIP-ViT-L-14-laion2B-s32B-b82K/snapshots/ab/open_clip_model.bin",
            False,
        ),
        ("ViT-L-14-quickgelu", "some/where/mine.pt", True),
        ("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup", False),
        ("convnext_large_d_320", "some/where/mine.safetensors", False),
        ("frozenseg_tiny", "some/where/mine.safetensors", False),
    ],
)
def test_tag_file_and_architecture_tell(name: str, weights: str, expected: bool) -> None:
    assert decided(name, weights) is expected
    assert decided(name, weights, "yes") is True and decided(name, weights, "no") is False


@pytest.mark.parametrize("weights", ["some/where/clip.safetensors", "mine.pt", ""])
def test_what_nothing_tells_is_asked_for(weights: str) -> None:
    with pytest.raises(UserError, match=r"SOME\.KEY: .*QuickGELU.*set this key to yes or no"):
        decided("ViT-L-14", weights)
    assert decided("ViT-L-14", weights, allow_random=True) is False  # no weights at all


def test_entries_of_openais_file_tell(tmp_path: Path) -> None:
    state = {"text_projection": torch.ones(2, 2)}
    path = str(tmp_path / "clip.pt")
    torch.save(state, path)
    with pytest.raises(UserError, match="set this key"):
        decided("ViT-L-14", path, allow_random=True)  # there are weights
    extra = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save({**state, **extra}, path)
    assert decided("ViT-L-14", path) is True
    write_state(tmp_path / "clip.safetensors", {**state, **extra})
    assert decided("frozenseg_tiny", str(tmp_path / "clip.safetensors")) is True


@pytest.mark.parametrize("answer", ["yes", "no", "True", "False"])
def test_the_keys_override_in_both_families(answer: str) -> None:
    expected = answer in ("yes", "True")
    options = [*TINY_OPTIONS, "MODEL.FROZEN_SEG.CLIP_QUICK_GELU", answer]
    assert has_quick_gelu(build_clip(load_config(None, options)).model) is expected
    other = "no" if expected else "yes"
    options = [*FUSIONER, "MODEL.FUSIONER.VISUAL_QUICK_GELU", answer]
    model = build_model(load_config(None, [*options, "MODEL.FUSIONER.TEXT_QUICK_GELU", other]))
    assert has_quick_gelu(model.visual) is expected
    assert has_quick_gelu(model.text) is not expected


def test_a_yaml_file_may_say_yes(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("MODEL: {FROZEN_SEG: {CLIP_QUICK_GELU: yes}}\n")
    assert load_config(path).MODEL.FROZEN_SEG.CLIP_QUICK_GELU == "yes"
    with pytest.raises(UserError, match="CLIP_QUICK_GELU maybe: must be one of auto, yes, no"):
        load_config(None, ["MODEL.FROZEN_SEG.CLIP_QUICK_GELU", "maybe"])


def test_no_other_place_decides() -> None:
    package = Path(build_tiny.__globals__["build_model"].__code__.co_filename).parent
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert '== "openai"' not in text and "add_model_config" not in text, path
