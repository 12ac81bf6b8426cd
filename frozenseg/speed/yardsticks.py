"""What anyone can install and time on the same machine, and the rate of the machine itself."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from frozenseg.encoders.clip import build_clip_model, image_trunk
from frozenseg.encoders.clip_convnext import ConvNeXtTrunk
from frozenseg.encoders.sam import plain_image_encoder
from frozenseg.precision import Precision

SAM, CLIP = "segment-anything's encoder", "open_clip's trunk"


@dataclass(frozen=True)
class Yardstick:
    """work: to be timed. flops: how many operations it is, of those that show the machine's rate;
    None for the others."""

    name: str
    work: Callable[[], object]
    flops: float | None = None


def encoder_yardsticks(
    clip_name: str, sam_name: str, size: tuple[int, int], precision: Precision, divisor: int
) -> list[Yardstick]:
    """segment-anything's image encoder on its square and open_clip's trunk on the padded image, in
    their own code, with random weights. Each is built when it first runs: after the memory of
    what it stands beside has been measured."""
    height, width = (-(-side // divisor) * divisor for side in size)

    @functools.cache
    def encoder() -> Callable[[], object]:
        module = plain_image_encoder(sam_name)
        module.requires_grad_(False).eval().to(precision.device)
        square = torch.randn(1, 3, module.img_size, module.img_size, device=precision.device)
        return lambda: _run(module, square, precision)

    @functools.cache
    def trunk() -> Callable[[], object]:
        visual: Any = build_clip_model(clip_name, quick_gelu=False).visual
        visual.requires_grad_(False).eval().to(precision.device)
        function = visual.trunk.forward_features if hasattr(visual, "trunk") else None
        pixels = torch.randn(1, 3, height, width, device=precision.device)
        return lambda: _run(function or image_trunk_of(visual), pixels, precision)

    return [Yardstick(SAM, lambda: encoder()()), Yardstick(CLIP, lambda: trunk()())]


def image_trunk_of(visual: nn.Module) -> Callable[[torch.Tensor], object]:
    """open_clip's ResNet up to its attention pooling, which takes one size only."""
    trunk = image_trunk(visual, "open_clip's ResNet")
    assert not isinstance(trunk, ConvNeXtTrunk), "those have a trunk of their own"
    return trunk


@torch.inference_mode()
def _run(function: Callable[[torch.Tensor], object], pixels: torch.Tensor, by: Precision) -> None:
    with by.autocast():
        function(pixels)


def machine_yardsticks(precision: Precision, *, small: bool) -> list[Yardstick]:
    """A large matrix product and a 3 x 3 convolution of 256 channels at 200 x 304, stride 4 of the
    published setting. small: for tests."""
    side = 128 if small else 2048 if precision.device.type == "cpu" else 8192
    channels, height, width = (16, 20, 30) if small else (256, 200, 304)
    left = torch.randn(side, side, device=precision.device)
    maps = torch.randn(1, channels, height, width, device=precision.device)
    kernel = torch.randn(channels, channels, 3, 3, device=precision.device)
    return [
        Yardstick("matrix product", lambda: _run(left.matmul, left, precision), 2.0 * side**3),
        Yardstick(
            "convolution",
            lambda: _run(lambda x: F.conv2d(x, kernel, padding=1), maps, precision),
            2.0 * 9 * channels**2 * height * width,
        ),
    ]
