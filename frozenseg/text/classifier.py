"""Text embeddings of class names, with a cache in memory and on disk.

Legend: S names, D dimension of the joint space.
"""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.errors import TextTooLong, UserError, WriteError
from frozenseg.files import user_path
from frozenseg.structures import TextEmbeddings
from frozenseg.tensor_store import SUFFIX, names_in, prune, read_tensors, write_tensors
from frozenseg.text.names import foreign, shown
from frozenseg.text.templates import PLACE, VILD
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

LARGEST = 2_000_000_000  # bytes of all vectors on disk: 600,000 names of the published CLIP
WRITES_BETWEEN = 100  # looks at how much that is, which takes a second with 100,000 files
AT_ONCE = 1000  # names: 43 MB for the vectors of their sentences, by the published CLIP
MOST_IN_MEMORY = 50_000  # names: 300 MB of the published CLIP; a service may be asked for any
FILE_FORMAT = "3"  # part of the folder's name, so that a new format does not find old files
PREFIX = "name:"  # of the keys of vectors, so that no name is a reserved word of safetensors


class TextEncoder(Protocol):
    """The part of a frozen text encoder that the classifier uses."""

    def encode_text(self, texts: list[str]) -> Tensor:
        """Vectors (N, D), not normalised; raises `TextTooLong` for a text that would be cut."""

    def text_fingerprint(self) -> str:
        """Return a digest of all that the vectors depend on: architecture, weights, tokenizer."""


def cache_folder() -> Path | None:
    """Return the folder of caches: $FROZENSEG_CACHE, else ~/.cache/frozenseg.

    None, with a warning, if there is no home folder (as in containers without HOME).
    """
    folder = os.environ.get("FROZENSEG_CACHE")
    if folder:
        return user_path(folder)
    home = os.path.expanduser("~")
    if home == "~":
        logger.warning(
            "text embeddings are not cached on disk: there is no home folder; set FROZENSEG_CACHE"
        )
        return None
    return Path(home) / ".cache" / "frozenseg"


class TextClassifier:
    """Makes the text embeddings of vocabularies and encodes every name only once.

    On disk, vectors are in a folder whose name is a hash of the encoder's fingerprint and the
    templates, so that other weights or templates never find them. Its files are those of
    `frozenseg.tensor_store`, named after the names in them. A file that cannot be read or written
    costs time, never the result. Beyond `LARGEST` bytes the oldest files go, and beyond
    `MOST_IN_MEMORY` names those that came first, which are then read from the disk again.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        templates: Sequence[str] = VILD,
        folder: Path | None,
        known: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Make the cache in memory.

        templates: from `frozenseg.text.templates.find_templates`.
        folder: of the cache on disk; None keeps the cache in memory only.
        known: names whose vectors (D,) are known already.
        """
        self.encoder = encoder
        self.templates = tuple(templates)
        self.encoded = 0  # how many names were in no cache and had to be encoded
        self._root = folder
        self._folder: Path | None = None
        self._known: Mapping[str, Tensor] = known or {}
        self._vectors: dict[str, Tensor] = {}
        self._on_disk: dict[str, Path] | None = None
        self._writes = 0
        self._writable = True

    def keep_off_disk(self) -> None:
        """Write no further names to disk, as those of others; what is there is still read."""
        self._writable = False

    def embed(
        self, vocabulary: Vocabulary, training: Vocabulary, *, plurals: bool = False
    ) -> TextEmbeddings:
        """Embeddings of a vocabulary; classes that share a name with `training` count as seen.

        plurals: whether a plural is the same name, as in `Vocabulary.seen`.
        """
        vectors = self.vectors(vocabulary.flat_names)
        return TextEmbeddings(
            weight=vectors,
            class_index=torch.tensor(vocabulary.class_index),
            seen=torch.tensor(vocabulary.seen(training, plurals=plurals)),
        )

    def vectors(self, names: Sequence[str]) -> Tensor:
        """Return unit vectors (S, D) of names, float32 on the CPU.

        The vectors of all templates are normalised, averaged, and normalised again (CLIP, arXiv
        2103.00020, section 3.1.4). Raises `UserError` for a name that the encoder would cut.
        """
        held = {
            name: vector
            for name in names
            if (vector := self._known.get(name, self._vectors.get(name))) is not None
        }
        new = [name for name in dict.fromkeys(names) if name not in held]
        if new:
            found = self._read(new)
            missing = [name for name in new if name not in found]
            for start in range(0, len(missing), AT_ONCE):
                encoded = self._encode(missing[start : start + AT_ONCE])
                self._write(encoded)
                found |= encoded
            _log(new, missing)
            held |= found
            # In one step: other threads may ask for names meanwhile.
            kept = list({**self._vectors, **found}.items())[-MOST_IN_MEMORY:]
            self._vectors = dict(kept)
        return torch.stack([held[name] for name in names])

    def _encode(self, names: list[str]) -> dict[str, Tensor]:
        texts = [template.replace(PLACE, name) for name in names for template in self.templates]
        try:
            # The vectors are kept for all later uses: an autocast around the caller is not theirs.
            with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
                encoded = self.encoder.encode_text(texts)
        except TextTooLong as error:
            name = names[error.index // len(self.templates)]
            raise UserError(
                f"the class name {shown(name, 60)} is too long for the text encoder: it has "
                f"{error.tokens} tokens within {texts[error.index].replace(name, '...')!r}, and "
                f"the limit is {error.limit}; shorten the name"
            ) from None
        vectors = F.normalize(encoded, dim=-1).unflatten(0, (len(names), -1)).mean(1)
        self.encoded += len(names)
        return dict(zip(names, F.normalize(vectors, dim=-1).cpu(), strict=True))

    def _location(self) -> Path | None:
        """Return the folder on disk for this encoder and these templates."""
        if self._root is not None and self._folder is None:
            key = "\n".join((FILE_FORMAT, self.encoder.text_fingerprint(), *self.templates))
            self._folder = self._root / hashlib.sha256(key.encode()).hexdigest()[:32]
        return self._folder

    def _index(self) -> dict[str, Path]:
        """For each name on disk, the file that has its vector."""
        folder = self._location()
        if folder is None:
            return {}
        try:
            paths = sorted(folder.glob("[!.]*.safetensors")) if folder.is_dir() else []
        except OSError as error:
            logger.warning("text cache %s cannot be read (%s)", folder, error)
            return {}
        return {name.removeprefix(PREFIX): path for path in paths for name in names_in(path)}

    def _read(self, names: list[str]) -> dict[str, Tensor]:
        if self._on_disk is None:
            self._on_disk = self._index()
        files: dict[Path, list[str]] = {}
        for name in names:
            if name in self._on_disk:
                files.setdefault(self._on_disk[name], []).append(name)
        found = {}
        for path, names_in_file in files.items():
            vectors = read_tensors(path) or {}
            for name in names_in_file:
                if (vector := vectors.get(PREFIX + name)) is not None:
                    found[name] = vector
        return found

    def _write(self, vectors: dict[str, Tensor]) -> None:
        folder = self._location()
        if folder is None or not self._writable:
            return
        title = hashlib.sha256("\n".join(sorted(vectors)).encode()).hexdigest()[:32]
        if not all(vector.isfinite().all() for vector in vectors.values()):
            return  # the weights are not finite, which the result will show
        path = folder / f"{title}{SUFFIX}"
        try:
            write_tensors(path, {PREFIX + name: vector for name, vector in vectors.items()})
            if self._on_disk is not None:
                self._on_disk.update(dict.fromkeys(vectors, path))
            if self._writes % WRITES_BETWEEN == 0:
                prune(folder.parent, LARGEST)
            self._writes += 1
        except WriteError as error:  # a full or read-only disk must not cost the result
            logger.warning("text cache: %s", error)


def _log(names: list[str], encoded: list[str]) -> None:
    """Log how many names are new, and warn of names that are not in Latin letters."""
    logger.info(
        "text: %d names, %d from the cache, %d encoded",
        len(names),
        len(names) - len(encoded),
        len(encoded),
    )
    if other := foreign(names):
        logger.warning(
            "text: %d of %d names are not in Latin letters; a text encoder that was trained on "
            "English captions hardly knows them: %s",
            len(other),
            len(names),
            ", ".join(other[:5]) + (", ..." if len(other) > 5 else ""),
        )
