"""Half precision and compiling change the time, not what is found."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import frozenseg
from frozenseg.build.device import build_precision
from frozenseg.build.models import build_model
from frozenseg.build.prediction import build_predictor
from frozenseg.config import load_config
from frozenseg.encoders.convnext_block import FusedConvNeXtBlock
from frozenseg.encoders.pooling import pool_masks
from frozenseg.encoders.sam_attention import FusedBlock
from frozenseg.errors import UserError
from frozenseg.models.geometric_ensemble import class_logits
from frozenseg.results.result import SegmentationResult
from frozenseg.runtime import precision as precision_module
from frozenseg.runtime.linear import Int8Linear, PrepackedLinear, onednn_present
from frozenseg.runtime.precision import Precision, allow_tf32, tf32_settings
from frozenseg.small_world.pictures import demo_scenes
from frozenseg.structures import TextEmbeddings
from tests.conftest import TINY_OPTIONS

CPU = torch.device("cpu")


def test_defaults_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert Precision.choose(CPU, "auto").dtype is None
    assert Precision.choose(cuda, "auto").dtype == torch.float16
    assert Precision.for_training(CPU, mixed=True).dtype is None
    assert Precision.for_training(cuda, mixed=False).dtype is None
    for has, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)  # noqa: B023
        assert Precision.for_training(cuda, mixed=True).dtype == expected
    assert Precision.choose(cuda, "fp32").dtype is None
    assert [Precision.choose(CPU, name).name for name in ("fp32", "tf32", "bf16", "fp16")] == [
        "fp32",
        "tf32",
        "bf16",
        "fp16",
    ]


@pytest.mark.filterwarnings("ignore:CUDA is not available")  # PyTorch's own, of autocast
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("name", "inside"), [("fp32", False), ("tf32", True), ("fp16", True), ("bf16", True)]
)
def test_float32_means_float32_on_cuda(before: bool, name: str, inside: bool) -> None:
    """TF32 only where it is asked for or all else is coarser, and the host's choice comes back."""

    def flags() -> list[bool]:
        return [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]

    with allow_tf32(before):
        with (
            pytest.raises(KeyboardInterrupt),
            Precision.choose(torch.device("cuda"), name).autocast(),
        ):
            assert flags() == [inside, inside]
            raise KeyboardInterrupt
        assert flags() == [before, before]


def test_of_several_threads_the_strictest_wins() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with ThreadPoolExecutor(1) as other:
        strict = allow_tf32(False)
        with allow_tf32(True):
            assert matmul.allow_tf32
            other.submit(strict.__enter__).result()
            assert not matmul.allow_tf32
            other.submit(strict.__exit__, None, None, None).result()
            assert matmul.allow_tf32
    assert matmul.allow_tf32 == before


NEWER = {
    "products": (torch.backends.cuda.matmul, "tf32"),
    "everything": (torch.backends, "tf32"),
    "cudnn": (torch.backends.cudnn, "tf32"),
    "convolutions": (getattr(torch.backends.cudnn, "conv", None), "ieee"),
}


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="a PyTorch without it"
)
@pytest.mark.parametrize("name", NEWER)
def test_a_program_that_uses_the_newer_settings_keeps_them(name: str) -> None:
    """PyTorch raises where its older settings are read after the newer ones were set."""
    module, value = NEWER[name]
    whole = module.fp32_precision  # type: ignore[union-attr]
    try:
        module.fp32_precision = value  # type: ignore[union-attr]
        _check_newer_settings()
    finally:
        module.fp32_precision = whole  # type: ignore[union-attr]


def _check_newer_settings() -> None:
    cudnn = torch.backends.cudnn
    backends = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [backend.fp32_precision for backend in backends]
    settings = tf32_settings()
    for allowed, inside in ((True, "tf32"), (False, "ieee")):
        with allow_tf32(allowed), allow_tf32(allowed):
            assert [backend.fp32_precision for backend in backends] == [inside] * 3
            assert set(tf32_settings()) == {allowed}
    assert [backend.fp32_precision for backend in backends] == before
    assert tf32_settings() == settings


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(UserError, match=r"MODEL\.PRECISION bf61: .*did you mean bf16"):
        build_precision(load_config(None, ["MODEL.PRECISION", "bf61"]), CPU)


def test_means_over_many_cells_and_class_logits_stay_in_float32() -> None:
    """300 x 300 cells of 2 sum to 180,000, beyond float16; logits of 100 need steps below 0.5."""
    features = torch.full((1, 4, 300, 300), 2.0, dtype=torch.float16)
    vectors = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    text = TextEmbeddings(vectors, torch.arange(5), torch.ones(5, dtype=torch.bool))
    arguments = (torch.randn(1, 3, 8), text, torch.randn(1, 8), torch.tensor(100.0).log())
    expected = class_logits(*arguments)
    with torch.autocast("cpu", dtype=torch.float16):
        pooled = pool_masks(features, torch.ones(1, 1, 300, 300))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = class_logits(*arguments)
    torch.testing.assert_close(pooled, torch.full((1, 1, 4), 2.0))
    assert torch.equal(found, expected)


def class_map(result: SegmentationResult) -> np.ndarray:
    """(H, W) the class of each pixel of the panoptic result, -1 where there is none."""
    classes = np.full(len(result.panoptic.segments) + 1, -1)
    for segment in result.panoptic.segments:
        classes[segment.id] = segment.class_id
    return classes[result.panoptic.ids]


def test_bfloat16_finds_the_same() -> None:
    """Measured on six scenes: between 99.9 and 100 % of pixels have the same class in the panoptic
    result, 97.4 to 100 % in the semantic one."""
    scene = demo_scenes()[0]
    segmenter = frozenseg.load(
        "small", options=["MODEL.DEVICE", "cpu", "TEST.USE_SAM_MASKS", "False"]
    )
    found = []
    for name in ("fp32", "bf16"):
        segmenter.pipeline.precision = Precision.choose(CPU, name)
        words = [*{region.name for region in scene.regions}]
        found.append(segmenter(scene.image, words, threshold=0))
    full, half = found
    assert (class_map(full) == class_map(half)).mean() >= 0.99
    assert (full.semantic == half.semantic).mean() >= 0.98
    assert not np.array_equal(full.instances.scores, half.instances.scores)  # it was another


@pytest.mark.skipif(not onednn_present(), reason="int8 does not run on this CPU")
def test_int8_finds_the_same() -> None:
    """Measured on six scenes: all pixels have the same class in the panoptic result, 99.99 to 100 %
    in the semantic one."""
    scene = demo_scenes()[0]
    found = []
    for name in ("fp32", "int8"):
        options = ["MODEL.DEVICE", "cpu", "TEST.USE_SAM_MASKS", "False", "MODEL.PRECISION", name]
        segmenter = frozenseg.load("small", options=options)
        words = [*{region.name for region in scene.regions}]
        found.append(segmenter(scene.image, words, threshold=0))
    kinds = {type(part) for part in segmenter.model.modules() if isinstance(part, nn.Linear)}
    assert Int8Linear in kinds and PrepackedLinear not in kinds
    full, rounded = found
    assert (class_map(full) == class_map(rounded)).mean() >= 0.99
    assert (full.semantic == rounded.semantic).mean() >= 0.99
    assert not np.array_equal(full.instances.scores, rounded.instances.scores)


@pytest.mark.slow
def test_compiled_stages_find_the_same_at_any_size() -> None:
    torch.set_num_threads(1)
    # Three layers have every kind of step of the decoder; more only take longer to compile.
    options = [*TINY_OPTIONS, "SEED", "0", "MODEL.MASK_FORMER.DEC_LAYERS", "4"]
    plain, compiled = (
        build_predictor(load_config(None, [*options, "MODEL.COMPILE", on]))
        for on in ("False", "True")
    )
    for size in ((70, 90), (96, 64)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        expected, found = (model(pixels, "car; road; sky") for model in (plain, compiled))
        assert (found.semantic == expected.semantic).mean() > 0.999
        assert (found.panoptic.ids == expected.panoptic.ids).mean() > 0.999
    names = [
        stage.name
        for stage in compiled.model.stages()
        if hasattr(getattr(stage.owner, stage.method), "_torchdynamo_orig_callable")
    ]
    assert "SAM encoder" in names and "transformer decoder" in names


@pytest.mark.skipif(not onednn_present(), reason="nothing is packed on this CPU")
@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ([], {PrepackedLinear}),
        (["MODEL.PRECISION", "bf16"], {nn.Linear}),  # oneDNN's layout here is of float32
    ],
)
def test_what_only_predicts_on_a_cpu_is_packed(options: list[str], kinds: set[type]) -> None:
    """And finds the same as a model that is not."""
    cfg = load_config(None, [*TINY_OPTIONS, "SEED", "0", *options])
    predictor = build_predictor(cfg)
    model = predictor.model
    blocks = [m for m in model.modules() if isinstance(m, FusedBlock | FusedConvNeXtBlock)]
    assert len(blocks) > 4
    assert {type(m) for b in blocks for m in b.modules() if isinstance(m, nn.Linear)} == kinds
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    found = predictor(pixels, "car; road; sky")
    predictor.pipeline.model = build_model(cfg).eval()
    expected = predictor(pixels, "car; road; sky")
    assert (found.semantic == expected.semantic).mean() > 0.999
    assert (found.panoptic.ids == expected.panoptic.ids).mean() > 0.999


def test_int8_is_not_compiled() -> None:
    options = [*TINY_OPTIONS, "SEED", "0", "MODEL.PRECISION", "int8", "MODEL.COMPILE", "True"]
    with pytest.raises(UserError, match=r"MODEL\.COMPILE: not possible with MODEL\.PRECISION int8"):
        build_predictor(load_config(None, options))


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"MODEL\.COMPILE: a C\+\+ compiler is needed"):
        build_predictor(load_config(None, [*TINY_OPTIONS, "MODEL.COMPILE", "True"]))


def test_int8_runs_only_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_module, "onednn_present", lambda: True)
    assert Precision.choose(CPU, "int8").name == "int8"
    with pytest.raises(UserError, match="int8: runs only on x86 CPUs with AVX2"):
        Precision.choose(torch.device("cuda"), "int8")
    monkeypatch.setattr(precision_module, "onednn_present", lambda: False)
    with pytest.raises(UserError, match="int8: runs only on x86 CPUs with AVX2"):
        Precision.choose(CPU, "int8")
