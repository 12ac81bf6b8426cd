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

from frozenseg.errors import TextTooLong, UserError, WriteError
from frozenseg.files import atomic_path, user_path
from frozenseg.structures import TextEmbeddings
from frozenseg.text.names import foreign, shown
from frozenseg.text.templates import PLACE, VILD
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

FILE_FORM = "2"  # of the cache's files: a later form does not find those of an earlier one
PREFIX = "name:"  # of a vector's key, so that no name is a word of the format


class TextEncoder(Protocol):
    """What the classifier needs of a frozen text tower."""

    def encode_text(self, texts: list[str]) -> Tensor:
        """(N, D), not normalised. Raises `TextTooLong` where it could read the begin alone."""

    def text_fingerprint(self) -> str:
        """A digest of everything that decides the vectors: architecture, weights, tokenizer."""


def cache_folder() -> Path | None:
    """Where caches live: $FROZENSEG_CACHE, else ~/.cache/frozenseg; None, said in the log, where
    there is no home folder (a container's user without an entry in passwd and without HOME)."""
    given = os.environ.get("FROZENSEG_CACHE")
    if given:
        return user_path(given)
    home = os.path.expanduser("~")
    if home == "~":
        logger.warning(
            "no cache of text vectors: there is no home folder; FROZENSEG_CACHE may name another"
        )
        return None
    return Path(home) / ".cache" / "frozenseg"


class TextClassifier:
    """Text vectors of vocabularies; every name is encoded once.

    On disk a name's vector lies in a file under a folder named after the encoder's fingerprint and
    the templates, so a changed weight or template finds nothing. Files are written whole, with a
    digest of what they hold, under a name made of their content's names, and never changed:
    processes may write at once. What cannot be read, or not written, costs time, not the result.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        templates: Sequence[str] = VILD,
        folder: Path | None,
    ) -> None:
        """templates: as `frozenseg.text.templates.find_templates` gives them. folder: of the cache
        on disk; None keeps the cache in memory only."""
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
            _say(wanted, missing)
        return torch.stack([self._vectors[name] for name in names])

    def _encode(self, names: list[str]) -> None:
        texts = [template.replace(PLACE, name) for name in names for template in self.templates]
        try:
            encoded = self.encoder.encode_text(texts)
        except TextTooLong as error:
            name = names[error.index // len(self.templates)]
            raise UserError(
                f"the class name {shown(name, 60)} is too long for the text encoder: "
                f"{error.tokens} tokens within {texts[error.index].replace(name, '...')!r}, it "
                f"reads {error.limit}; shorten it"
            ) from None
        vectors = F.normalize(encoded, dim=-1).unflatten(0, (len(names), -1)).mean(1)
        for name, vector in zip(names, F.normalize(vectors, dim=-1).cpu(), strict=True):
            self._vectors[name] = vector
        self.encoded += len(names)

    def _location(self) -> Path | None:
        """The folder of this encoder and these templates."""
        if self._root is not None and self._folder is None:
            key = "\n".join((FILE_FORM, self.encoder.text_fingerprint(), *self.templates))
            self._folder = self._root / hashlib.sha256(key.encode()).hexdigest()[:32]
        return self._folder

    def _index(self) -> dict[str, Path]:
        """The file of each name on disk."""
        folder = self._location()
        if folder is None:
            return {}
        try:
            paths = sorted(folder.glob("[!.]*.safetensors")) if folder.is_dir() else []
        except OSError as error:
            logger.warning("text cache %s cannot be read (%s)", folder, error)
            return {}
        index: dict[str, Path] = {}
        for path in paths:
            try:
                # Not a pipe, which would never end.
                if path.is_file():
                    with safetensors.safe_open(path, framework="pt") as file:
                        index.update((key.removeprefix(PREFIX), path) for key in file.keys())
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
                vectors = self._verified(path)
                self._vectors.update((name, vectors[name]) for name in held)
            except (safetensors.SafetensorError, OSError, _Damaged) as error:
                logger.warning("text cache %s is damaged and left aside (%s)", path, error)

    def _verified(self, path: Path) -> dict[str, Tensor]:
        """All vectors of a file, whose digest must be that of what it holds."""
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            vectors = {key.removeprefix(PREFIX): file.get_tensor(key) for key in file.keys()}
        if metadata.get("digest") != self._digest(vectors):
            raise _Damaged("its content has not the digest that was written with it")
        return vectors

    def _digest(self, vectors: dict[str, Tensor]) -> str:
        """Of names and vectors, for this encoder and these templates: no other's file has it."""
        digest = hashlib.sha256(str(self._location()).rpartition(os.sep)[2].encode())
        for name in sorted(vectors):
            digest.update(f"{name!r} {vectors[name].dtype} {tuple(vectors[name].shape)}".encode())
            digest.update(vectors[name].contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _write(self, names: list[str]) -> None:
        folder = self._location()
        if folder is None:
            return
        title = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:32]
        vectors = {name: self._vectors[name] for name in names}
        if not all(vector.isfinite().all() for vector in vectors.values()):
            return  # of weights that are not numbers; the result shows it
        try:
            with atomic_path(folder / f"{title}.safetensors") as temporary:
                save_file(
                    {PREFIX + name: vector for name, vector in vectors.items()},
                    temporary,
                    metadata={"digest": self._digest(vectors)},
                )
        except WriteError as error:  # a full or read-only disk costs time, not the result
            logger.warning("text cache: %s", error)


class _Damaged(Exception):
    """A file of the cache that holds something else than was written."""


def _say(names: list[str], encoded: list[str]) -> None:
    """What was asked for the first time: how many names, and which of them are not Latin."""
    logger.info(
        "text: %d names, %d from the cache, %d encoded",
        len(names),
        len(names) - len(encoded),
        len(encoded),
    )
    if other := foreign(names):
        logger.warning(
            "text: %d of %d names are not in Latin letters, which an encoder of English captions "
            "hardly reads: %s",
            len(other),
            len(names),
            ", ".join(other[:5]) + (", ..." if len(other) > 5 else ""),
        )
