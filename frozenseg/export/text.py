"""Write the text tower to a file, and the text vectors of a vocabulary to another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from frozenseg.encoders.clip_text import ClipText
from frozenseg.errors import UserError
from frozenseg.export.graph import write_onnx
from frozenseg.files import UNREADABLE, atomic_path
from frozenseg.structures import TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary


class TextTower(nn.Module):
    """CLIP's text tower as a function of tensors."""

    def __init__(self, encoder: ClipText) -> None:
        super().__init__()
        self.clip = encoder.model

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode tokens (N, L) int64 to vectors (N, D), not normalised; L is the context length."""
        return self.clip.encode_text(tokens)


@torch.no_grad()
def write_text_tower(encoder: ClipText, path: Path, about: Mapping[str, Any]) -> None:
    """Write the text tower as ONNX, with input "tokens" and output "vectors"."""
    tokens = encoder.tokenizer(["a photo of a cat", "sky"])
    program = torch.export.export(
        TextTower(encoder).eval(), (tokens,), dynamic_shapes=({0: Dim("texts")},), strict=False
    )
    write_onnx(program, path, ["vectors"], about)


def write_vectors(path: Path, vocabulary: Vocabulary, text: TextEmbeddings) -> None:
    """Write the text vectors of a vocabulary, as inputs of a graph, with its names, as .npz."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            names=np.array(vocabulary.flat_names),
            vectors=text.weight.numpy(),
            class_index=text.class_index.numpy(),
            seen=text.seen.numpy(),
            is_thing=np.array(vocabulary.is_thing),
        )


def read_vectors(path: Path) -> dict[str, Tensor]:
    """Return the vector (D,) of each name in a file of `write_vectors`.

    Raises `UserError` if the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names, vectors = file["names"].tolist(), torch.from_numpy(file["vectors"])
            return dict(zip(names, vectors, strict=True))
    except UNREADABLE as error:
        raise UserError(f"{path}: holds no text vectors ({type(error).__name__})") from None
