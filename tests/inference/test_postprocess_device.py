"""Post-processing on a device never waits for the device within an image.

Tensors on PyTorch's "meta" device have no values, so every operation that reads a value on the host
is an error: `item`, `nonzero`, a mask as an index, a copy to the host.
"""

import pytest
import torch

from frozenseg.inference.accumulators import (
    InstanceAccumulator,
    PanopticAccumulator,
    ProposalAccumulator,
    SemanticAccumulator,
    bring_to_host,
)
from frozenseg.inference.postprocess import _accumulate
from frozenseg.inference.resize import MaskResizer, _stretch, _stretch_in_two_axes
from frozenseg.text.vocabulary import Vocabulary

META = torch.device("meta")


def test_no_band_waits_for_the_device() -> None:
    size, queries = (50, 70), 6
    vocabulary = Vocabulary((("car",), ("road",), ("sky",)), (True, False, False))
    probs = torch.rand(queries, 4).softmax(-1)
    masks = torch.empty(queries, 16, 24, device=META)
    accumulators = [
        PanopticAccumulator(probs, size, 0.0, META),
        InstanceAccumulator(probs, vocabulary, size, 3, META),
        SemanticAccumulator(probs[:, :-1].to(META), size, keep_scores=False, threshold=0.1),
        ProposalAccumulator(masks, size),
    ]
    resizer = MaskResizer(
        mask_size=(16, 24), padded_size=(64, 96), image_size=(60, 90), output_size=size
    )
    _accumulate(list(accumulators), None, masks, resizer, sum(probs.shape))
    for accumulator in accumulators:
        accumulator.finish()
        outputs = [getattr(accumulator, name) for name in accumulator.outputs]
        assert outputs and all(tensor.device == META for tensor in outputs)
        with pytest.raises(NotImplementedError):  # only here results are copied to the host
            bring_to_host([accumulator])


@pytest.mark.parametrize(("width", "target"), [(304, 1216), (1199, 640), (24, 97), (1, 5)])
def test_rows_stretched_in_two_axes_are_the_same_bit_for_bit(width: int, target: int) -> None:
    maps = 10 * torch.randn(5, 7, width)
    assert torch.equal(_stretch_in_two_axes(maps, target), _stretch(maps, target))
