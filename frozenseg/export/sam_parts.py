"""A SAM as three graphs: its image encoder, and the two steps of its point decoder.

The rest (grid of points, filters, non-maximum suppression) remains in
`frozenseg.inference.proposals`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from frozenseg.encoders.sam import PIXEL_MEAN, PIXEL_STD, FrozenSam, build_sam_model
from frozenseg.encoders.sam_decoder import PointDecoder
from frozenseg.errors import UserError
from frozenseg.export.agreement import LIMITS
from frozenseg.export.graph import write_onnx
from frozenseg.export.session import AnySession

Open = Callable[[Path], AnySession]
"""Opens a graph on the device where it should run."""


@dataclass(frozen=True)
class Part:
    """The names of the inputs and outputs of a graph.

    free: the inputs whose first axis may have any length.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    free: tuple[str, ...] = ()


PARTS = {
    "encoder": Part(("pixels",), ("embedding",)),
    "points": Part(("embedding", "points"), ("tokens", "cells", "quality"), free=("points",)),
    "masks": Part(("tokens", "cells"), ("masks",), free=("tokens", "cells")),
}
"""Name of a part -> its inputs and outputs, those of `FrozenSam.encode` and `PointDecoder`."""


def write_part(
    name: str, sam: FrozenSam, path: Path, about: Mapping[str, Any], open_graph: Open
) -> None:
    """Write a part of a SAM as a graph; raise `UserError` if the graph differs from SAM.

    name: a key of `PARTS`. about: written into the file. open_graph: opens the file for the check.
    """
    part = PARTS[name]
    module, inputs = _module(name, sam)
    # SAM is run before the trace, as in `traced`, because it caches tables between calls.
    with torch.no_grad():
        truth = module(*inputs)
    truths = truth if isinstance(truth, tuple) else (truth,)
    length = Dim("length", min=2, max=1 << 20)
    shapes = tuple({0: length} if key in part.free else {} for key in part.inputs)
    program = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
    write_onnx(program, path, part.outputs, about, inputs=part.inputs)
    for found, true in zip(graph_of(name, open_graph(path))(*inputs), truths, strict=True):
        difference = float((found - true).abs().max() / true.abs().max())
        if not difference <= LIMITS["fp32"].masks:
            path.unlink()
            raise UserError(f"{path}: differs from SAM by {difference:.1e} and is not written")


def _module(name: str, sam: FrozenSam) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return the module of a part, and example inputs for it."""
    generator = torch.Generator().manual_seed(0)
    if name == "encoder":
        return sam.model.image_encoder, (_random((1, 3, sam.side, sam.side), generator),)
    decoder = PointDecoder(sam.model)
    attend, masks = decoder.attend, decoder.masks
    assert isinstance(attend, nn.Module) and isinstance(masks, nn.Module), (
        "graphs have not replaced them"
    )
    grid = sam.model.prompt_encoder.image_embedding_size
    points = sam.side * torch.rand(5, 2, generator=generator)
    inputs = (_random((1, sam.channels, *grid), generator), points)
    if name == "points":
        return attend, inputs
    with torch.no_grad():
        return masks, attend(*inputs)[:2]


def _random(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator)


def graph_of(name: str, session: AnySession) -> Callable[..., list[Tensor]]:
    """Return a part as a function of tensors. name: a key of `PARTS`."""
    part = PARTS[name]

    def compute(*tensors: Tensor) -> list[Tensor]:
        arrays = (tensor.contiguous().numpy() for tensor in tensors)
        found = session(dict(zip(part.inputs, arrays, strict=True)))
        return [torch.from_numpy(found[key]) for key in part.outputs]

    return compute


def sam_of_graphs(
    name: str, view: str, sessions: Mapping[str, AnySession]
) -> tuple[FrozenSam, PointDecoder]:
    """Return a SAM that is computed by graphs, and its decoder; it has no weights itself.

    name: the size of SAM, a key of `SIZES`. view: see `FrozenSam`. sessions: the graphs, by the
    names of `PARTS`.
    """
    with torch.device("meta"):
        model = build_sam_model(name)
    model.pixel_mean, model.pixel_std = (
        torch.tensor(values).view(-1, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD)
    )
    sam, decoder = FrozenSam(model=model, view=view), PointDecoder(model)
    stand_in_for_encoder(sam, sessions["encoder"])
    stand_in_for_decoder(decoder, sessions["points"], sessions["masks"])
    return sam, decoder


def stand_in_for_encoder(sam: FrozenSam, session: AnySession) -> None:
    """Let a graph compute SAM's embeddings from now on."""
    encode = graph_of("encoder", session)
    sam.model.image_encoder.forward = lambda pixels: torch.cat(
        [encode(part)[0] for part in pixels.split(1)]
    )


def stand_in_for_decoder(decoder: PointDecoder, points: AnySession, masks: AnySession) -> None:
    """Let graphs compute the decoding of points from now on."""
    attend, draw = graph_of("points", points), graph_of("masks", masks)
    decoder.attend = lambda *tensors: tuple(attend(*tensors))
    decoder.masks = lambda *tensors: draw(*tensors)[0]
