"""Write the text tower to a file, and the text vectors of a vocabulary to another."""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from frozenseg.encoders.clip_text import ClipText
from frozenseg.encoders.frozen import add_tensors
from frozenseg.errors import UserError
from frozenseg.export.graph import write_onnx
from frozenseg.export.metadata import of_another
from frozenseg.files import UNREADABLE, atomic_path, json_text
from frozenseg.structures import TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary

LARGEST = 1_000_000_000
"""The limit for the unpacked vectors in bytes, which limits the memory that a file can make us
allocate. 200,000 names take 0.6 GB with the published CLIP."""


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


def vectors_digest(names: Sequence[str], vectors: Tensor) -> str:
    """Return a digest of the names and vectors in a file of `write_vectors`."""
    digest = hashlib.sha256(json_text(names).encode())
    add_tensors(digest, {"vectors": vectors})
    return digest.hexdigest()[:16]


def read_vectors(path: Path, digest: str | None, dimension: int | None) -> dict[str, Tensor]:
    """Return the vector (D,) of each name in a file of `write_vectors`.

    digest: `vectors_digest` of the file that was exported with the model; older models have None.
    dimension: D; None if it is not known.

    Raises `UserError` if the file cannot be read, or is not of this model.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST:
            raise UserError(f"{path}: holds {size / 1e9:.1f} GB unpacked; get the file again")
        with np.load(path, allow_pickle=False) as file:
            names, vectors = file["names"].tolist(), torch.from_numpy(file["vectors"])
        known = dict(zip(names, vectors, strict=True))
    except UNREADABLE as error:
        raise UserError(f"{path}: holds no text vectors ({type(error).__name__})") from None
    fits = vectors.dtype == torch.float32 and vectors.ndim == 2 and bool(vectors.isfinite().all())
    if (
        not fits
        or dimension not in (None, vectors.shape[1])
        or digest not in (None, vectors_digest(names, vectors))
    ):
        raise of_another(path)
    return known
