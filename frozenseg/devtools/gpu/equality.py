"""Compare results of a GPU with those of a CPU in float32, and with the reference vectors."""

import functools
from typing import Any

import numpy as np
from PIL import Image

from frozenseg.build.prediction import load
from frozenseg.devtools.commands.check_reference import rows
from frozenseg.devtools.gpu.sections import Results
from frozenseg.devtools.gpu.trial import Trial
from frozenseg.files import shipped
from frozenseg.predictor import Predictor
from frozenseg.runtime.precision import DTYPES, Precision

REFERENCES = ("convnext_large", "losses", "postprocess")


def small_model(trial: Trial, proposals: bool) -> Results:
    """Compare each precision on the GPU with float32 on the CPU.

    The results are the percentages of pixels of the demo's scenes that get the same class, with
    the demo's vocabulary.

    proposals: whether SAM's mask proposals are used too, as in the shipped model.
    """
    expected = _class_maps(trial, "cpu", "fp32", proposals)
    for name in (name for name in DTYPES if name != "int8"):  # int8: only on CPUs
        found = _class_maps(trial, str(trial.device), name, proposals)
        shares: dict[str, Any] = {}
        for task in ("panoptic", "semantic"):
            pairs = zip(found[task], expected[task], strict=True)
            equal = [100 * float((ours == theirs).mean()) for ours, theirs in pairs]
            shares[f"{task}, worst"] = round(min(equal), 3)
            shares[f"{task}, mean"] = round(float(np.mean(equal)), 3)
        yield name, shares


def _class_maps(
    trial: Trial, device: str, precision: str, proposals: bool
) -> dict[str, list[np.ndarray]]:
    options = ("MODEL.PRECISION", precision, "TEST.USE_SAM_MASKS", str(proposals))
    maps: dict[str, list[np.ndarray]] = {"panoptic": [], "semantic": []}
    with load("small", device=device, options=options) as segmenter:
        for result in _results(segmenter, 2 if trial.tiny else 6):
            assert result.panoptic is not None and result.semantic is not None
            maps["panoptic"].append(result.panoptic.class_map())
            maps["semantic"].append(result.semantic)
    return maps


def _results(segmenter: Predictor, count: int) -> list[Any]:
    demo = shipped("demo")
    images = sorted((demo / "images").glob("*.png"))[:count]
    words = demo / "vocabulary.txt"
    return [segmenter(np.array(Image.open(p)), words, threshold=0) for p in images]


def reference(trial: Trial, precision: str) -> Results:
    """Compare with the reference vectors; the errors are those of `frozenseg check_reference`."""
    if trial.reference is None:
        yield "skipped", "no reference vectors were given (--reference)"
        return
    for name in REFERENCES:
        if name != "convnext_large" and (precision != "fp32" or trial.tiny):
            continue  # these two do not depend on the precision
        if trial.tiny and name == "convnext_large":
            yield name, "skipped: an entire model takes too long in a trial"
            continue
        chosen = Precision.choose(trial.device, precision)
        yield name, {entry: f"{error:.2e}" for entry, error in rows(trial.reference / name, chosen)}


PARTS = {
    "small model without SAM's masks": functools.partial(small_model, proposals=False),
    "small model with SAM's masks": functools.partial(small_model, proposals=True),
    "reference, fp32": functools.partial(reference, precision="fp32"),
    "reference, fp16": functools.partial(reference, precision="fp16"),
    "reference, bf16": functools.partial(reference, precision="bf16"),
}
