"""SAM's attention with decomposed relative positions, through PyTorch's fused kernel.

Legend: B windows or images, M heads, h x w cells.
"""

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor

BIAS_ELEMENTS = 64_000_000  # floats of the position bias held at once, 256 MB


class FusedAttention(Attention):
    """The same parameters and outputs as segment-anything's, without its three score matrices.

    The bias of a global block is (M, h*w, h*w), 0.8 GB for ViT-B: heads are taken in groups.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        batch, height, width, _ = x.shape
        cells = height * width
        qkv = self.qkv(x).reshape(batch, cells, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        rows = get_rel_pos(height, height, self.rel_pos_h)  # (h, h, C / M)
        columns = get_rel_pos(width, width, self.rel_pos_w)
        group = max(1, BIAS_ELEMENTS // (batch * cells * cells))
        attended = []
        for query, key, value in zip(*(part.split(group, dim=1) for part in qkv), strict=True):
            grid = query.unflatten(2, (height, width))
            of_rows = torch.einsum("bmhwc,hkc->bmhwk", grid, rows)
            of_columns = torch.einsum("bmhwc,wkc->bmhwk", grid, columns)
            bias = (of_rows[..., :, None] + of_columns[..., None, :]).flatten(4).flatten(2, 3)
            attended.append(F.scaled_dot_product_attention(query, key, value, attn_mask=bias))
        tokens = torch.cat(attended, dim=1).transpose(1, 2).reshape(batch, height, width, -1)
        return self.proj(tokens)


def fuse_attention(encoder: ImageEncoderViT) -> ImageEncoderViT:
    """Put `FusedAttention` in place of each block's attention; names of parameters stay."""
    for block in encoder.blocks:
        old = block.attn
        fused = FusedAttention(
            old.qkv.in_features,
            num_heads=old.num_heads,
            use_rel_pos=True,
            input_size=((len(old.rel_pos_h) + 1) // 2, (len(old.rel_pos_w) + 1) // 2),
        )
        fused.load_state_dict(old.state_dict())
        block.attn = fused
    return encoder
