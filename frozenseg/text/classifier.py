"""From class names to text vectors, with a cache in memory and on disk.

Legend: S names, D joint space.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from frozenseg.errors import WriteError
from frozenseg.files import atomic_path
from frozenseg.structures import TextEmbeddings
from frozenseg.text.templates import VILD
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


class TextEncoder(Protocol):
    """What the classifier needs of a frozen text tower."""

    def encode_text(self, texts: list[str]) -> Tensor:
        """(N, D), not normalised."""

    def text_fingerprint(self) -> str:
        """A digest of everything that decides the vectors: architecture, weights, tokenizer."""


def cache_folder() -> Path:
    """Where caches live: $FROZENSEG_CACHE, else ~/.cache/frozenseg."""
    return Path(os.environ.get("FROZENSEG_CACHE") or Path.home() / ".cache" / "frozenseg")


class TextClassifier:
    """Text vectors of vocabularies; every name is encoded once.

    On disk a name's vector lies in a file under a folder named after the encoder's fingerprint and
    the templates, so a changed weight or template finds nothing. Files are written whole, under a
    name made of their content's names, and never changed: processes may write at once.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        templates: Sequence[str] = VILD,
        folder: Path | None,
    ) -> None:
        """folder: of the cache on disk; None keeps the cache in memory only."""
        self.encoder = encoder
        self.templates = tuple(templates)
        self.encoded = 0  # names encoded so far, i.e. found in no cache
        self._root = folder
        self._folder: Path | None = None
        self._vectors: dict[str, Tensor] = {}
        self._on_disk: dict[str, Path] | None = None

    def embed(self, vocabulary: Vocabulary, training: Vocabulary) -> TextEmbeddings:
        """The vectors of a vocabulary; `training` decides which classes count as seen."""
        vectors = self.vectors(vocabulary.flat_names)
        return TextEmbeddings(
            weight=vectors,
            class_index=torch.tensor(vocabulary.class_index),
            seen=torch.tensor(vocabulary.seen(training)),
        )

    def vectors(self, names: Sequence[str]) -> Tensor:
        """(S, D) unit vectors on the CPU, float32: templates normalised, averaged, normalised."""
        wanted = [name for name in dict.fromkeys(names) if name not in self._vectors]
        if wanted:
            self._read(wanted)
            missing = [name for name in wanted if name not in self._vectors]
            if missing:
                self._encode(missing)
                self._write(missing)
            logger.info(
                "text: %d names, %d from the cache, %d encoded",
                len(wanted),
                len(wanted) - len(missing),
                len(missing),
            )
        return torch.stack([self._vectors[name] for name in names])

    def _encode(self, names: list[str]) -> None:
        texts = [template.format(name) for name in names for template in self.templates]
        vectors = F.normalize(self.encoder.encode_text(texts), dim=-1)
        vectors = vectors.unflatten(0, (len(names), -1)).mean(1)
        for name, vector in zip(names, F.normalize(vectors, dim=-1).cpu(), strict=True):
            self._vectors[name] = vector
        self.encoded += len(names)

    def _location(self) -> Path | None:
        """The folder of this encoder and these templates."""
        if self._root is not None and self._folder is None:
            key = "\n".join((self.encoder.text_fingerprint(), *self.templates))
            self._folder = self._root / hashlib.sha256(key.encode()).hexdigest()[:32]
        return self._folder

    def _index(self) -> dict[str, Path]:
        """The file of each name on disk."""
        folder = self._location()
        index: dict[str, Path] = {}
        if folder is not None and folder.is_dir():
            for path in sorted(folder.glob("[!.]*.safetensors")):
                try:
                    with safetensors.safe_open(path, framework="pt") as file:
                        index.update((key.removeprefix("name:"), path) for key in file.keys())
                except (safetensors.SafetensorError, OSError) as error:
                    logger.warning("text cache %s is damaged and left aside (%s)", path, error)
        return index

    def _read(self, names: list[str]) -> None:
        if self._on_disk is None:
            self._on_disk = self._index()
        files: dict[Path, list[str]] = {}
        for name in names:
            if name in self._on_disk:
                files.setdefault(self._on_disk[name], []).append(name)
        for path, held in files.items():
            try:
                with safetensors.safe_open(path, framework="pt") as file:
                    for name in held:
                        self._vectors[name] = file.get_tensor(f"name:{name}")
            except (safetensors.SafetensorError, OSError) as error:
                logger.warning("text cache %s is damaged and left aside (%s)", path, error)

    def _write(self, names: list[str]) -> None:
        folder = self._location()
        if folder is None:
            return
        digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:32]
        try:
            with atomic_path(folder / f"{digest}.safetensors") as temporary:
                save_file({f"name:{name}": self._vectors[name] for name in names}, temporary)
        except WriteError as error:  # a full or read-only disk costs time, not the result
            logger.warning("text cache: %s", error)
