"""Where weights come from, and what is said when they are not there."""

from pathlib import Path

import pytest
import torch

from frozenseg.build.models import load_model
from frozenseg.checkpoints import frozen_weights as pretrained
from frozenseg.checkpoints.frozen_weights import FrozenPart, find_clip, find_sam, load_parts
from frozenseg.checkpoints.published_names import to_published
from frozenseg.checkpoints.state_dict import model_state, trainable_state, write_state
from frozenseg.config import load_config
from frozenseg.errors import UserError
from frozenseg.models.frozenseg import FrozenSeg
from tests.conftest import FC_CLIP_OPTIONS, TINY_OPTIONS, build_tiny


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and an empty cache of downloads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda *_: None)


def load(
    model: FrozenSeg,
    weights: str = "",
    clip_weights: str = "clip.safetensors",
    sam_weights: str = "",
    allow_random: bool = False,
) -> list[str]:
    parts = [
        FrozenPart("clip", model.clip.model, lambda: find_clip("frozenseg_tiny", clip_weights))
    ]
    if model.sam is not None:
        parts.append(FrozenPart("sam", model.sam.model, lambda: find_sam("tiny", sam_weights)))
    return load_parts(model, weights=weights, parts=parts, allow_random=allow_random)


def write_encoders(source: FrozenSeg, half: bool = False) -> None:
    """clip.safetensors here, and SAM's where it is looked for."""
    for name, module in (
        ("clip.safetensors", source.clip.model),
        ("pretrained_checkpoint/sam_tiny.safetensors", source.sam.model),
    ):
        state = module.state_dict()
        if half:
            state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        write_state(name, state)


def equal_parts(model: FrozenSeg, source: FrozenSeg, *parts: str) -> bool:
    theirs = source.state_dict()
    return all(
        torch.equal(tensor, theirs[name])
        for name, tensor in model.state_dict().items()
        if name.split(".")[0] in parts
    )


def test_frozen_parts_come_from_files_of_their_own() -> None:
    source, model = build_tiny(seed=1), build_tiny(seed=2)
    write_encoders(source)
    assert load(model) == ["decoder"]
    assert equal_parts(model, source, "clip", "sam")
    assert equal_parts(model, build_tiny(seed=2), "pixel_decoder", "mask_decoder")
    write_state("trained.safetensors", trainable_state(source))
    assert load(model, weights="trained.safetensors") == []
    assert equal_parts(model, source, "clip", "sam", "pixel_decoder", "mask_decoder")


def test_a_whole_published_checkpoint_needs_no_other_file() -> None:
    source, model = build_tiny(seed=1), build_tiny(seed=2)
    torch.save({"model": to_published(model_state(source))}, "released.pth")
    assert load(model, weights="released.pth", clip_weights="nowhere") == []
    assert equal_parts(model, source, "clip", "sam", "mask_decoder", "void_embedding")


def test_half_precision_files_load_as_float32() -> None:
    source, model = build_tiny(seed=1), build_tiny(seed=2)
    write_encoders(source, half=True)
    load(model)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(
        model.clip.model.text_projection, source.clip.model.text_projection, atol=1e-3, rtol=1e-2
    )


def test_openais_descriptions_are_no_weights() -> None:
    source, model = build_tiny(*FC_CLIP_OPTIONS, seed=1), build_tiny(*FC_CLIP_OPTIONS, seed=2)
    state = source.clip.model.state_dict()
    extra = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save({**state, **extra}, "openai.pt")
    load(model, clip_weights="openai.pt")
    assert equal_parts(model, source, "clip")


def test_weights_of_another_encoder_are_refused() -> None:
    source, model = build_tiny(seed=1), build_tiny(seed=2)
    write_encoders(source)
    state = source.clip.model.state_dict()
    state["text_projection"] = state["text_projection"][:5]
    state["another"] = state.pop("ln_final.bias")
    write_state("other.safetensors", state)
    with pytest.raises(
        UserError, match=r"weights other\.safetensors: not those of this encoder"
    ) as e:
        load(model, clip_weights="other.safetensors")
    assert all(name in str(e.value) for name in ("text_projection", "another", "ln_final.bias"))


def test_absent_parts_are_errors_or_random_on_request() -> None:
    model = build_tiny()
    with pytest.raises(UserError, match=r"^clip\.safetensors: no such file"):
        load(model)
    assert load(model, clip_weights="tag", allow_random=True) == ["decoder", "clip", "sam"]
    write_state("clip.safetensors", model.clip.model.state_dict())
    with pytest.raises(UserError, match=r"pretrained_checkpoint/sam_tiny\.safetensors: no such"):
        load(model)
    assert load(model, allow_random=True) == ["decoder", "sam"]
    assert load(build_tiny(*FC_CLIP_OPTIONS)) == ["decoder"]  # no SAM is asked for


def test_random_on_request_does_not_hide_a_misspelt_path() -> None:
    model = build_tiny()
    write_state("clip.safetensors", model.clip.model.state_dict())
    for wrong in ({"clip_weights": "clip.safetensor/s"}, {"sam_weights": "/x/nosuch.pth"}):
        with pytest.raises(FileNotFoundError, match=f"{next(iter(wrong.values()))}: no such file"):
            load(model, allow_random=True, **wrong)
    assert load(model, allow_random=True) == ["decoder", "sam"]
    options = {"MODEL.ALLOW_RANDOM_WEIGHTS": True, "MODEL.SAM_WEIGHTS": "/x/nosuch.pth"}
    with pytest.raises(UserError, match=r"^MODEL.SAM_WEIGHTS /x/nosuch.pth: .* weights$"):
        load_model(
            load_config(
                None, dict(zip(TINY_OPTIONS[::2], TINY_OPTIONS[1::2], strict=True)) | options
            )
        )


def test_random_on_request_does_not_hide_a_damaged_file() -> None:
    Path("clip.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"clip\.safetensors: damaged"):
        load(build_tiny(), allow_random=True)


def test_a_missing_checkpoint_is_an_error_even_with_random_parts() -> None:
    with pytest.raises(UserError, match=r"weights none\.pth: no such file"):
        load(build_tiny(), weights="none.pth", allow_random=True)


# ---- CLIP's files


def touch(path: str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).touch()
    return Path(path)


def test_a_tag_is_looked_for_in_the_folder() -> None:
    name, tag = "convnext_large_d_320", "laion2b_s29b_b131k_ft_soup"
    for suffix in (".pth", ".bin", ".safetensors"):  # the safest is preferred
        path = touch(f"pretrained_checkpoint/{name}-{tag}{suffix}")
        assert find_clip(name, tag) == path


def test_a_tag_is_looked_for_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def cached(source: str, file: str) -> str | None:
        asked.append((source, file))
        return f"/cache/{file}" if file.endswith(".bin") else None

    monkeypatch.setattr(pretrained, "try_to_load_from_cache", cached)
    path = find_clip("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup")
    assert path == Path("/cache/open_clip_pytorch_model.bin")
    assert asked[0][0] == "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"


def test_an_absent_tag_says_how_to_fetch_it_and_where_to_put_it() -> None:
    with pytest.raises(UserError) as caught:
        find_clip("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup")
    message = str(caught.value)
    assert "`frozenseg download clip-convnext-large` fetches them" in message
    assert (
        "pretrained_checkpoint/convnext_large_d_320-laion2b_s29b_b131k_ft_soup.safetensors"
        in message
    )


def test_a_tag_whose_file_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        find_clip("ViTamin-S", "datacomp1b")
    assert str(caught.value) == (
        "datacomp1b: these weights of ViTamin-S are not here; fetch them with `hf download "
        "jienengchen/ViTamin-S pytorch_model.bin`, or put the file at "
        "pretrained_checkpoint/ViTamin-S-datacomp1b.bin"
    )
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda *names: "/".join(names))
    assert find_clip("ViTamin-S", "datacomp1b") == Path("jienengchen/ViTamin-S/pytorch_model.bin")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("laion400m", r"laion400m: no such tag for convnext_large_d_320; known: laion2b"),
        ("", "no weights of CLIP are named; give a tag or a file"),
        ("some/where", "some/where: no such file"),
        ("clip.pt", r"clip\.pt: no such file"),
    ],
)
def test_tags_and_files_that_are_not_there(weights: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_clip("convnext_large_d_320", weights)


# ---- SAM's files


def test_sams_published_files() -> None:
    with pytest.raises(UserError) as caught:
        find_sam("vit_b", "")
    assert str(caught.value) == (
        "the weights of SAM ViT-B are not here; `frozenseg download sam-vit-b` fetches them, or "
        "put the file at pretrained_checkpoint/sam_vit_b_01ec64.pth"
    )
    path = touch("pretrained_checkpoint/sam_vit_b_01ec64.pth")
    assert find_sam("vit_b", "") == path
    with pytest.raises(UserError, match=r"elsewhere\.pth: no such file"):
        find_sam("vit_b", "elsewhere.pth")
    assert find_sam("vit_b", str(touch("elsewhere.pth"))) == Path("elsewhere.pth")
