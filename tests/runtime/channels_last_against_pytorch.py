"""Compare the kernels of `channels_last` with PyTorch; see `test_channels_last.py`.

Run as a module with TRITON_INTERPRET=1, since Triton decides on import whether to interpret.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.runtime import channels_last
from frozenseg.runtime.channels_last import PART, depthwise_layer_norm, group_norm
from frozenseg.runtime.triton_launch import kernels_work

# Images, height, width, channels; also smaller than the convolution.
DEPTHWISE = [(2, 5, 9, 20), (1, 1, 2, 3), (1, 4, 1, 8)]
# Images, channels, groups, height, width.
GROUPS = [(2, 32, 8, 3, 7), (1, 8, 8, 1, 3), (2, 16, 1, 2, 2)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def compare_depthwise(device: str, dtype: torch.dtype) -> None:
    for batch, height, width, channels in DEPTHWISE:
        given = [
            random(batch, height, width, channels) + 3,
            random(7, 7, channels, seed=1),
            *random(3, channels, seed=2),
        ]
        cells, taps, bias, scale, shift = (tensor.to(device, dtype) for tensor in given)
        found = depthwise_layer_norm(cells, taps, bias, scale, shift, 1e-6)
        # From the same numbers in float64, rounded once at the end.
        maps, weight = cells.double().permute(0, 3, 1, 2), taps.double().permute(2, 0, 1)[:, None]
        mixed = F.conv2d(maps, weight, bias.double(), padding=3, groups=channels)
        others = (channels,), scale.double(), shift.double(), 1e-6
        expected = F.layer_norm(mixed.permute(0, 2, 3, 1), *others)
        check(found, expected)


def compare_groups(device: str, dtype: torch.dtype) -> None:
    for relu in (False, True):
        for batch, channels, groups, height, width in GROUPS:
            maps = random(batch, channels, height, width) + 20 * random(channels, 1, 1, seed=3)
            given = [maps, *random(2, channels, seed=4)]
            maps, scale, shift = (tensor.to(device, dtype) for tensor in given)
            found = group_norm(maps, groups, scale, shift, 1e-5, relu)
            assert found.is_contiguous(memory_format=torch.channels_last)
            others = scale.double(), shift.double(), 1e-5
            expected = F.group_norm(maps.double(), groups, *others)
            check(found, expected.relu() if relu else expected)


def check(found: Tensor, expected: Tensor) -> None:
    """A number is at most one step of its type from the right one, and a float32 close to it."""
    bound = {"atol": 2e-5, "rtol": 1e-5} if found.dtype == torch.float32 else {}
    torch.testing.assert_close(found, expected.to(found.dtype), **bound)


def compare(device: str, *dtypes: torch.dtype) -> None:
    for dtype in dtypes or (torch.float32, torch.float16, torch.bfloat16):
        compare_depthwise(device, dtype)
        compare_groups(device, dtype)
    assert kernels_work(PART)  # else PyTorch was compared with itself


if __name__ == "__main__":
    channels_last.SUM_PARTS, channels_last.TILE, channels_last.GROUP_TILE = 2, 128, 256
    compare("cpu", torch.float32, torch.float16)
