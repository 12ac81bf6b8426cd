"""No data is copied to or read from the device while the model predicts.

A CUDA graph cannot contain such copies, and each of them waits. Meta tensors stand for the tensors
of a device.
"""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from frozenseg.build.models import build_model
from frozenseg.config import load_config
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.structures import ImageBatch, TextEmbeddings
from tests.conftest import TINY_OPTIONS

MAKERS = (torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor)


class Copies(TorchFunctionMode):
    """Collects the names of functions that make tensors from numbers on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in MAKERS:
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


class Crossings(TorchDispatchMode):
    """Collects the operations that read both devices, copy between them or return a number."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        # A tensor without axes is a number, which is passed with the launch of a kernel.
        devices = {tensor.device for tensor in tensors if tensor.ndim}
        if len(devices) > 1 or func._schema.name == "aten::_local_scalar_dense":
            self.names.append(func._schema.name)
        return result


@pytest.mark.parametrize("make", [lambda x: x.new_tensor([1.0]), lambda x: torch.tensor([1.0])])
def test_made_tensors_are_seen(make: Any) -> None:
    with Copies() as copies:
        make(torch.zeros(2, device="meta"))
    assert len(copies.names) == 1


def test_copies_are_seen() -> None:
    with Crossings() as crossings:
        torch.zeros(2).to("meta")
    assert crossings.names == ["aten::_to_copy"]


def test_the_model_copies_nothing_between_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    # Autocast does not support the meta device.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    model = build_model(load_config(None, TINY_OPTIONS)).eval().to("meta")
    assert isinstance(model, FrozenSeg)
    images = ImageBatch(torch.zeros(1, 3, 64, 96, device="meta"), [(60, 90)])
    text = TextEmbeddings(
        weight=torch.zeros(6, model.clip.embed_dim, device="meta"),
        class_index=torch.zeros(6, dtype=torch.long, device="meta"),
        seen=torch.zeros(4, dtype=torch.bool, device="meta"),
    )
    with torch.inference_mode():
        model.predict(images, text)  # fills the tables for this size
        with Copies() as copies, Crossings() as crossings:
            predictions = model.predict(images, text)
    assert predictions.class_logits.shape == (1, 10, 5)
    assert copies.names == [] and crossings.names == []
