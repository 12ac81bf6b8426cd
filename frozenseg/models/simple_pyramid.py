"""The simple feature pyramid of ViTDet (arXiv 2203.16527, section 3): four levels from one map."""

from timm.layers import LayerNorm2d
from torch import Tensor, nn


class SimpleFeaturePyramid(nn.Module):
    """Computes levels at strides 4, 8, 16 and 32 from the last map of a plain ViT, at stride 16.

    Its layers are trained: the detail within a patch is encoded in the channels of its token, and
    fixed resampling cannot recover it. ViTDet's last two convolutions of each level are left out,
    since the pixel decoder begins with its own convolution and norm.
    """

    def __init__(self, *, channels: int) -> None:
        """channels: number of channels of the map."""
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.channels = {"res2": quarter, "res3": half, "res4": channels, "res5": channels}
        self.to_res2 = nn.Sequential(
            nn.ConvTranspose2d(channels, half, kernel_size=2, stride=2),
            LayerNorm2d(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, kernel_size=2, stride=2),
        )
        self.to_res3 = nn.ConvTranspose2d(channels, half, kernel_size=2, stride=2)
        self.to_res5 = nn.MaxPool2d(kernel_size=2, stride=2)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map {"res4": (B, C, h, w)}, with even h and w, to the levels "res2" to "res5"."""
        cells = features["res4"].to(self.to_res3.weight.dtype)
        return {
            "res2": self.to_res2(cells),
            "res3": self.to_res3(cells),
            "res4": cells,
            "res5": self.to_res5(cells),
        }
