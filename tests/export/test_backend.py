"""MODEL.BACKEND: graphs in the place of a model's computations, made for the sizes it meets."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import frozenseg
from frozenseg.build.prediction import build_predictor
from frozenseg.config import load_config
from frozenseg.errors import UserError
from frozenseg.export import stand_in
from tests.conftest import TINY_OPTIONS

# Weights without training propose masks that no threshold would pass.
OPTIONS = [
    *TINY_OPTIONS,
    *("TEST.USE_SAM_MASKS", "True", "TEST.PKL_SAM_MODEL_NAME", "tiny"),
    *("TEST.SAM_MASKS.POINTS_PER_SIDE", "4", "SEED", "0"),
    *("TEST.SAM_MASKS.PREDICTED_IOU", "0.0", "TEST.SAM_MASKS.STABILITY", "0.0"),
]
WORDS = "circle; square; sky; grass"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_backend_finds_what_pytorch_finds(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxscript", backend):
        if find_spec(name) is None:
            pytest.skip(f'needs the extra of {backend}: pip install "frozenseg[onnx,openvino]"')
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path))
    cfg = load_config(None, [*OPTIONS, "MODEL.BACKEND", backend])
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((64, 96), (64, 90))]
    with build_predictor(load_config(None, OPTIONS)) as ours:
        truth = [ours(image, WORDS, threshold=0) for image in images]
    for _ in range(2):
        with build_predictor(cfg) as other:
            found = other.batch(images, WORDS, threshold=0)  # both are padded to one size
        for first, second in zip(truth, found, strict=True):
            assert (first.semantic == second.semantic).mean() > 0.999
            assert (first.panoptic.ids == second.panoptic.ids).mean() > 0.999
            scores = [[part.score for part in one.panoptic.segments] for one in (first, second)]
            np.testing.assert_allclose(*scores, atol=1e-3)
        # SAM's encoder, both halves of its decoder, and one size; the second time they are found.
        assert len(list((tmp_path / "graphs").glob("*.onnx"))) == 4
        monkeypatch.setattr(stand_in, "write_graph", None)


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("openvino", ["MODEL.PRECISION", "bf16"], "computes in float32"),
        ("onnxruntime", ["MODEL.COMPILE", "True"], "computes in float32"),
        ("tensorrt", [], "pytorch, onnxruntime, openvino"),
    ],
)
def test_what_a_backend_cannot_do_is_one_line(
    backend: str, options: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        frozenseg.load("small", options=options, backend=backend, device="cpu")
