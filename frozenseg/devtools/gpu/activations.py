"""Find the largest activations of a model in float32, to see whether float16 would overflow."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from frozenseg.build.prediction import load
from frozenseg.devtools.gpu.sections import Results
from frozenseg.devtools.gpu.trial import Trial
from frozenseg.devtools.reference.model import build_reference_model
from frozenseg.devtools.speed.clock import Place, replaced, stage_places
from frozenseg.devtools.speed.setting import random_model
from frozenseg.files import read_arrays, read_json, shipped
from frozenseg.models.base import SegmentationModel
from frozenseg.structures import ImageBatch

LISTED = 12  # number of modules in the report
OUTSIDE = "between stages"
LARGEST_FLOAT16 = 65504


class Largest(TorchDispatchMode):
    """Records the largest finite magnitude among the outputs of operations, by stage and by module.

    Unlike hooks on the outputs of modules, this also covers functions to which a module passes its
    weights. It does not cover values inside a fused kernel, such as attention scores.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.module = OUTSIDE, ""
        self.found: dict[tuple[str, str], Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func._schema.name:  # no values yet
            for tensor in tree_leaves(output):
                if isinstance(tensor, Tensor) and tensor.dtype == torch.float32 and tensor.numel():
                    self._note(tensor)
        return output

    def of_stages(self) -> dict[str, float]:
        """Return {stage: its largest activation}."""
        return self._largest(0)

    def of_modules(self) -> dict[str, float]:
        """Return {module: its largest activation}, largest first."""
        return dict(sorted(self._largest(1).items(), key=lambda pair: -pair[1]))

    def _note(self, tensor: Tensor) -> None:
        # The result stays on the device, so that nothing waits for it.
        largest = tensor.detach().nan_to_num(0.0, 0.0, 0.0).abs().amax()
        key = (self.stage, self.module)
        before = self.found.get(key)
        self.found[key] = largest if before is None else torch.maximum(before, largest)

    def _largest(self, part: int) -> dict[str, float]:
        names: dict[str, float] = {}
        for key, value in self.found.items():
            names[key[part]] = max(names.get(key[part], 0.0), round(float(value), 2))
        return names


@contextmanager
def largest_activations(model: SegmentationModel) -> Iterator[Largest]:
    """Record the largest activations of the model while it computes inside the block."""
    largest, callers = Largest(), []

    def staged(place: Place, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            before, largest.stage = largest.stage, place.name
            result = function(*arguments, **options)
            largest.stage = before
            return result

        return run

    def enter(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, arguments: Any) -> None:
            callers.append(largest.module)
            largest.module = name

        return hook

    def leave(module: nn.Module, arguments: Any, output: Any) -> None:
        largest.module = callers.pop()

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(enter(name)))
        hooks.append(module.register_forward_hook(leave))
    try:
        with replaced(stage_places(model), staged), largest:
            yield largest
    finally:
        for hook in hooks:
            hook.remove()


def published(trial: Trial) -> Results:
    """Measure the published model with random weights, on an image of noise."""
    height, width = trial.setting().size
    model = random_model(trial.config("MODEL.PRECISION", "fp32"), trial.device).eval()
    yield from _measure(trial, model, torch.rand(3, height, width) * 255)


def small(trial: Trial) -> Results:
    """Measure the small model with its trained weights, on the demo's first scene."""
    scene = min((shipped("demo") / "images").glob("*.png"))
    options = ("MODEL.PRECISION", "fp32")
    with load("small", device=str(trial.device), options=options) as segmenter:
        pixels = segmenter.resize(np.array(Image.open(scene)))
        yield from _measure(trial, segmenter.model, pixels)


def reference(trial: Trial) -> Results:
    """Measure the published model with the weights of the reference vectors, on their image."""
    if trial.reference is None or trial.tiny:
        yield "skipped", "tiny" if trial.tiny else "no reference vectors were given (--reference)"
        return
    prefix = trial.reference / "convnext_large"
    model = build_reference_model(prefix, read_json(f"{prefix}.json")).to(trial.device)
    pixels = read_arrays(f"{prefix}.npz")["image_resized"]
    yield from _measure(trial, model, torch.from_numpy(pixels).permute(2, 0, 1))


@torch.no_grad()
def _measure(trial: Trial, model: SegmentationModel, pixels: Tensor) -> Results:
    text = trial.setting().text(model.text_encoder.embed_dim).to(trial.device)
    images = ImageBatch.collate([pixels], model.size_divisor).to(trial.device)
    with largest_activations(model) as largest:
        model.predict(images, text)
    yield "largest that float16 holds", LARGEST_FLOAT16
    yield "largest activation", largest.of_stages()
    modules = list(largest.of_modules().items())[:LISTED]
    yield "modules", ", ".join(f"{name or 'the model'} {value:g}" for name, value in modules)


PARTS: dict[str, Callable[[Trial], Results]] = {
    "published model, random weights": published,
    "small model, trained weights": small,
    "published model, the reference's weights": reference,
}
