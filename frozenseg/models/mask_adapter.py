"""Mask-Adapter (arXiv 2412.04533): where in and around a region CLIP's features are pooled.

Legend: B images, Q regions, M maps per region, D dimension of the joint space, h x w cells.
"""

import torch
from timm.layers import LayerNorm2d
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

FINER = 4  # mask cells per cell of CLIP, along each axis
MASKS_AT_ONCE = 32  # in inference: 250 masks of 32 x 32 cells take gigabytes inside the blocks


class MaskAdapter(nn.Module):
    """Computes semantic activation maps from masks and CLIP's features (section 3.2 of the paper).

    A mask is embedded by convolutions and added to CLIP's cells in the joint space; ConvNeXt blocks
    read the sum. A binary mask on CLIP's coarse grid only tells where a region is; with activation
    maps, the cells around the region may count as well, and cells inside it may count less.
    """

    def __init__(
        self, *, embed_dim: int, mask_channels: int, channels: int, num_blocks: int, num_maps: int
    ) -> None:
        """Make the layers.

        embed_dim: D. mask_channels: channels of an embedded mask, a multiple of 4. channels:
        channels of the blocks. num_blocks: number of ConvNeXt blocks. num_maps: M.
        """
        super().__init__()
        self.mask_embedding = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, kernel_size=3, stride=2, padding=1),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, kernel_size=3, stride=2, padding=1),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, embed_dim, kernel_size=1),
        )
        self.fusion = nn.Conv2d(embed_dim, channels, kernel_size=1)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(channels) for _ in range(num_blocks)))
        self.norm = LayerNorm2d(channels)
        self.maps = nn.Conv2d(channels, num_maps, kernel_size=1)

    def forward(self, cells: Tensor, masks: Tensor) -> Tensor:
        """Return the activation maps (B, Q, M, h, w) as logits.

        cells: (B, D, h, w), CLIP's features in the joint space. masks: (B, Q, 4h, 4w), the share of
        each cell that lies in the region, 0-1.
        """
        if torch.is_grad_enabled():
            return self._of_masks(cells, masks)
        parts = masks.split(MASKS_AT_ONCE, dim=1)
        return torch.cat([self._of_masks(cells, part) for part in parts], dim=1)

    def _of_masks(self, cells: Tensor, masks: Tensor) -> Tensor:
        batch = masks.shape[:2]
        embedded = self.mask_embedding(masks.flatten(0, 1)[:, None]).unflatten(0, batch)
        fused = self.fusion((embedded + cells[:, None]).flatten(0, 1))  # (B * Q, C, h, w)
        return self.maps(self.norm(self.blocks(fused))).unflatten(0, batch)
