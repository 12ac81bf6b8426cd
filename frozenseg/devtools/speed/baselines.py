"""Baselines that anyone can install and time on the same machine, and the machine's speed."""

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import nn

from frozenseg.build.families import find_family
from frozenseg.devtools.speed.clock import seconds
from frozenseg.devtools.speed.setting import Setting
from frozenseg.encoders.clip import build_clip_model, image_trunk
from frozenseg.encoders.clip_convnext import ConvNeXtTrunk
from frozenseg.encoders.sam import plain_image_encoder
from frozenseg.errors import UserError
from frozenseg.runtime.allocator import DEFAULT, HUGE_PAGES
from frozenseg.runtime.precision import Precision

SAM, CLIP = "segment-anything's encoder", "open_clip's trunk"


@dataclass(frozen=True)
class Baseline:
    """A piece of work to compare with.

    seconds: runs the work once and returns its seconds.
    flops: number of floating point operations, if the work measures the machine's speed; else None.
    """

    name: str
    seconds: Callable[[], float]
    flops: float | None = None


@dataclass(frozen=True)
class EncoderSetting:
    """The encoders that are timed, and their input.

    clip_name: the model of open_clip.
    sam_name: the model of segment-anything.
    size: (height, width) of the image in pixels.
    divisor: the sides of the image are padded to multiples of it.
    precision: precision and device of both encoders.
    threads: number of PyTorch's threads.
    batch: number of images at once.
    """

    clip_name: str
    sam_name: str
    size: tuple[int, int]
    divisor: int
    precision: Precision
    threads: int
    batch: int = 1


def encoder_setting(
    cfg: CfgNode, setting: Setting, precision: Precision, *, batch: int = 1
) -> EncoderSetting | None:
    """Return the encoders of a model with both CLIP and SAM; None for other models."""
    encoders = find_family(cfg).encoders(cfg)
    if not {"clip", "sam"} <= encoders.keys():
        return None
    return EncoderSetting(
        clip_name=encoders["clip"],
        sam_name=encoders["sam"],
        size=setting.size,
        divisor=cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
        precision=precision,
        threads=torch.get_num_threads(),
        batch=batch,
    )


@contextmanager
def encoder_baselines(setting: EncoderSetting | None) -> Iterator[list[Baseline]]:
    """Run segment-anything's image encoder and open_clip's trunk with the code of these libraries.

    The encoder sees SAM's square input and the trunk the padded image; weights are random. They run
    in a separate process with the default memory allocator of Linux: the settings of this package
    (`frozenseg.runtime.allocator`) would speed them up too, but other programs do not have them.

    setting: the encoders; if it is None, there are no baselines.
    """
    if setting is None:
        yield []
        return
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, setting), daemon=True)
    with _default_allocator():
        process.start()
    theirs.close()

    def ask(name: str) -> float:
        try:
            ours.send(name)
            return ours.recv()
        except (EOFError, OSError):
            raise UserError(f"the process that runs {name} ended; is memory short?") from None

    try:
        yield [Baseline(name, functools.partial(ask, name)) for name in (SAM, CLIP)]
    finally:
        ours.close()  # the process ends when its pipe is closed
        process.join()


@contextmanager
def _default_allocator() -> Iterator[None]:
    """Let processes that are started inside the block use the default allocator."""
    before = os.environ.copy()
    os.environ[DEFAULT] = "1"
    os.environ.pop(HUGE_PAGES, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(requests: Connection, setting: EncoderSetting) -> None:
    """Run the encoders whose names are received, and send their seconds, until the pipe closes."""
    torch.set_num_threads(setting.threads)
    works = encoder_works(setting)
    while True:
        try:
            name = requests.recv()
        except EOFError:
            return
        requests.send(seconds(works[name], setting.precision.device))


def encoder_works(setting: EncoderSetting) -> dict[str, Callable[[], object]]:
    """Return {name: a function that runs this encoder once in this process}; weights are created on
    the device."""
    with setting.precision.device:
        return {SAM: _sam(setting), CLIP: _trunk(setting)}


def _sam(setting: EncoderSetting) -> Callable[[], object]:
    module = plain_image_encoder(setting.sam_name).requires_grad_(False).eval()
    side = module.img_size
    square = torch.randn(setting.batch, 3, side, side)
    return lambda: _run(module, square, setting.precision)


def _trunk(setting: EncoderSetting) -> Callable[[], object]:
    visual: Any = build_clip_model(setting.clip_name, quick_gelu=False).visual
    visual.requires_grad_(False).eval()
    height, width = (-(-side // setting.divisor) * setting.divisor for side in setting.size)
    pixels = torch.randn(setting.batch, 3, height, width)
    own = visual.trunk.forward_features if hasattr(visual, "trunk") else _resnet(visual)
    return lambda: _run(own, pixels, setting.precision)


def _resnet(visual: nn.Module) -> Callable[[torch.Tensor], object]:
    """Return open_clip's ResNet without its attention pooling, which accepts only one size."""
    trunk = image_trunk(visual, "open_clip's ResNet")
    assert not isinstance(trunk, ConvNeXtTrunk), "ConvNeXt has an attribute `trunk`"
    return trunk


@torch.inference_mode()
def _run(function: Callable[[torch.Tensor], object], pixels: torch.Tensor, by: Precision) -> None:
    with by.autocast():
        function(pixels)


def machine_baselines(precision: Precision, *, small: bool) -> list[Baseline]:
    """Return a large matrix product and a 3 x 3 convolution of 256 channels at 200 x 304.

    This is the size of the feature maps at stride 4 in the published setting.

    small: use smaller ones, for tests.
    """
    side = 128 if small else 2048 if precision.device.type == "cpu" else 8192
    channels, height, width = (16, 20, 30) if small else (256, 200, 304)
    left = torch.randn(side, side, device=precision.device)
    maps = torch.randn(1, channels, height, width, device=precision.device)
    kernel = torch.randn(channels, channels, 3, 3, device=precision.device)

    def timed(work: Callable[[torch.Tensor], object], pixels: torch.Tensor) -> float:
        return seconds(lambda: _run(work, pixels, precision), precision.device)

    return [
        Baseline("matrix product", lambda: timed(left.matmul, left), 2.0 * side**3),
        Baseline(
            "convolution",
            lambda: timed(lambda x: F.conv2d(x, kernel, padding=1), maps),
            2.0 * 9 * channels**2 * height * width,
        ),
    ]
