"""The rearranged two-way transformer against segment-anything's own."""

import torch

from frozenseg.encoders.sam import build_sam_model
from frozenseg.encoders.sam_decoder import two_way


def test_the_two_way_transformer_is_segment_anythings() -> None:
    torch.manual_seed(0)
    transformer = build_sam_model("small").mask_decoder.transformer.eval()
    with torch.no_grad():
        for parameter in transformer.parameters():  # biases start at 0: they shall matter
            parameter.add_(0.1 * torch.randn_like(parameter))
    image, positions = torch.randn(1, 128, 6, 5), torch.randn(1, 128, 6, 5)
    prompts = torch.randn(4, 7, 128)
    with torch.no_grad():
        tokens, cells = transformer(
            image.expand(4, -1, -1, -1), positions.expand(4, -1, -1, -1), prompts
        )
        ours = two_way(transformer, image.flatten(2).mT, positions.flatten(2).mT, prompts)
    torch.testing.assert_close(ours[0], tokens, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ours[1], cells, atol=2e-5, rtol=1e-4)
