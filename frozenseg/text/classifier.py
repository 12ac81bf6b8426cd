"""Text embeddings of class names, cached in memory and on disk.

Legend: S names, D dimension of CLIP's joint space of images and texts, N texts.
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

LARGEST = 2_000_000_000  # limit in bytes of the cache on disk: 600,000 names of the published CLIP
WRITES_BETWEEN = 100  # writes between two checks of the limit; with 100,000 files one takes 1 s
AT_ONCE = 1000  # names encoded together; the published CLIP's vectors of their sentences take 43 MB
MOST_IN_MEMORY = 50_000  # names: 300 MB with the published CLIP; users of a service choose names
FILE_FORMAT = "3"  # part of the folder's name, so that a new format does not find old files
PREFIX = "name:"  # begins the keys of vectors, so that no key is a reserved word of safetensors


class TextEncoder(Protocol):
    """The part of a frozen text encoder that the classifier uses."""

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return vectors (N, D), not normalised; raises `TextTooLong` for a text that would be
        cut."""

    def text_fingerprint(self) -> str:
        """Return a digest of everything that the vectors depend on: architecture, weights and
        tokenizer."""


def cache_folder() -> Path | None:
    """Return the cache folder: $FROZENSEG_CACHE if it is set, else ~/.cache/frozenseg.

    Without a home folder, as in containers without HOME, logs a warning and returns None.
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
    """Computes the text embeddings of vocabularies; encodes every name only once.

    On disk, vectors are in a folder whose name is a hash of the encoder's fingerprint and the
    templates, so that other weights or templates never find them. The files are written by
    `frozenseg.tensor_store`; the name of each is a hash of the class names in it. If a file cannot
    be read or written, names are encoded again, and the result is the same up to rounding: the last
    bits of a vector depend on the names that are encoded together with it. Beyond `LARGEST` bytes,
    the oldest files are deleted. Beyond `MOST_IN_MEMORY` names, the oldest ones are removed from
    memory, and read from the disk when they are needed again.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        templates: Sequence[str] = VILD,
        folder: Path | None,
        known: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Make an empty cache in memory.

        templates: the prompt templates, as `frozenseg.text.templates.find_templates` returns them.
        folder: the cache folder on disk; None: the cache is only in memory.
        known: the vectors (D,) of names that are already known, by name.
        """
        self.encoder = encoder
        self.templates = tuple(templates)
        self.encoded = 0  # the number of names that were in no cache and had to be encoded
        self._root = folder
        self._folder: Path | None = None
        self._known: Mapping[str, Tensor] = known or {}
        self._vectors: dict[str, Tensor] = {}
        self._on_disk: dict[str, Path] | None = None
        self._writes = 0
        self._writable = True

    def keep_off_disk(self) -> None:
        """Stop writing names to disk, e.g. because users of a service send them; files are still
        read."""
        self._writable = False

    def embed(
        self, vocabulary: Vocabulary, training: Vocabulary, *, plurals: bool = False
    ) -> TextEmbeddings:
        """Return the embeddings of a vocabulary; classes that share a name with `training` count as
        seen.

        plurals: whether a plural counts as the same name, as in `Vocabulary.seen`.
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
            # The dictionary is replaced in one step, because other threads may read it meanwhile.
            kept = list({**self._vectors, **found}.items())[-MOST_IN_MEMORY:]
            self._vectors = dict(kept)
        return torch.stack([held[name] for name in names])

    def _encode(self, names: list[str]) -> dict[str, Tensor]:
        texts = [template.replace(PLACE, name) for name in names for template in self.templates]
        try:
            # The vectors are cached for all later uses, so the caller's autocast must not apply.
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
        """Return the folder on disk for this encoder and these templates; None without a cache."""
        if self._root is not None and self._folder is None:
            key = "\n".join((FILE_FORMAT, self.encoder.text_fingerprint(), *self.templates))
            self._folder = self._root / hashlib.sha256(key.encode()).hexdigest()[:32]
        return self._folder

    def _index(self) -> dict[str, Path]:
        """Return the file that has the vector of a name, for each name on disk."""
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
            return  # the encoder's weights are not finite; the result will show it
        path = folder / f"{title}{SUFFIX}"
        try:
            write_tensors(path, {PREFIX + name: vector for name, vector in vectors.items()})
            if self._on_disk is not None:
                self._on_disk.update(dict.fromkeys(vectors, path))
            if self._writes % WRITES_BETWEEN == 0:
                prune(folder.parent, LARGEST)
            self._writes += 1
        except WriteError as error:  # a full or read-only disk must not stop the computation
            logger.warning("text cache: %s", error)


def _log(names: list[str], encoded: list[str]) -> None:
    """Log the numbers of cached and encoded names, and warn of names without Latin letters."""
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
