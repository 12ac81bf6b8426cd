"""A cache on disk for the features of training images, so that frozen encoders see each view once.

    FOLDER/FINGERPRINT/KEY.safetensors   the features of one image

The fingerprint is a digest of the encoders, and the key a digest of the pixels, so a file holds
exactly what the encoders would compute. Files are written atomically and never changed, so several
processes may share a folder.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from frozenseg.errors import WriteError
from frozenseg.structures import ClipFeatures, Features, FrozenFeatures, ImageBatch, PatchTokens
from frozenseg.tensor_store import SUFFIX, folder_bytes, read_tensors, write_tensors

logger = logging.getLogger(__name__)


class FeatureCache:
    """Returns the features of batches, read from the disk or computed by the encoders.

    hits: the number of images whose features were read.
    misses: the number of images that were encoded.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fingerprint: str,
        limit: int,
        encode: Callable[[ImageBatch], Features],
        channels: Mapping[str, int],
        writers: int = 1,
    ) -> None:
        """
        fingerprint: a digest of everything that the result of `encode` depends on, except the
            images.
        limit: the maximum total size in bytes of all files below `folder`.
        encode: the frozen encoders.
        channels: the numbers of channels of their features, by name. If a file has other names or
            numbers, its image is encoded again.
        writers: the number of processes that fill the folder at the same pace. Together they may
            exceed the limit by one file each. What other runs write to the same folder meanwhile
            may exceed it further.
        """
        self.folder = folder
        self.fingerprint = fingerprint
        self.limit = limit
        self.encode = encode
        self.channels = channels
        self.hits = 0
        self.misses = 0
        self._writes = True
        self._writers = writers
        self._held = 0  # this process's estimate of the bytes below `folder`

    def __call__(self, images: ImageBatch, device: torch.device) -> Features:
        """Return the features of a batch, on the device.

        Every image is encoded separately, so that a file does not depend on the other images of the
        batch.
        """
        rows = [
            self._of_one(ImageBatch(pixels[None], [size], images.padding), device)
            for pixels, size in zip(images.pixels, images.sizes, strict=True)
        ]
        if len(rows) == 1:  # `cat` might change the memory layout of the tensors
            return from_tensors(rows[0])
        return from_tensors({name: torch.cat([row[name] for row in rows]) for name in rows[0]})

    def _of_one(self, image: ImageBatch, device: torch.device) -> dict[str, Tensor]:
        path = self.folder / self.fingerprint / f"{image_key(image)}{SUFFIX}"
        stored = read_tensors(path)
        if stored is not None and not self._fits(stored):
            logger.warning("cache %s: holds features of another model, and is ignored", path)
        elif stored is not None:
            self.hits += 1
            return {name: tensor.to(device) for name, tensor in stored.items()}
        tensors = to_tensors(self.encode(image.to(device)))
        self.misses += 1
        if self._writes:
            self._write(path, tensors)
        return tensors

    def _fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Tell whether these can be the features of one image by `encode`.

        Maps have the shape (1, C, h, w), and patch tokens ("cells") the shape (1, h, w, C).
        """
        return tensors.keys() - {"dense"} == self.channels.keys() and all(
            tensor.dim() == 4
            and len(tensor) == 1
            and tensor.is_floating_point()
            and tensor.shape[3 if name == "cells" else 1]
            == self.channels.get(name, tensor.shape[1])
            for name, tensor in tensors.items()
        )

    def _write(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write a file; if the cache cannot grow, log one warning and only read from then on."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        try:
            if self._has_room(size):
                write_tensors(path, tensors)
                self._held += path.stat().st_size * self._writers
                return
            reason = f"full at {self.limit / 1e9:g} GB"
        except WriteError as error:
            reason = str(error)
        self._writes = False
        logger.warning(
            "feature cache %s: %s; from now on it is only read; images that are not in it are "
            "encoded each time",
            self.folder,
            reason,
        )

    def _has_room(self, size: int) -> bool:
        """Tell whether a file of `size` bytes may be added.

        The folder is scanned only when it seems full, because a scan for every file would take ever
        longer.
        """
        if self._held == 0 or self._held + size > self.limit:
            self._held = folder_bytes(self.folder)
        return self._held + size <= self.limit


def to_tensors(features: Features) -> dict[str, Tensor]:
    """Return the tensors of features by name, each (B, ...), with one row for each image."""
    if isinstance(features, PatchTokens):
        return {"cells": features.tokens.unflatten(1, features.grid)}
    tensors = dict(features.clip.levels)
    if features.clip.dense.data_ptr() != tensors[max(tensors)].data_ptr():
        tensors["dense"] = features.clip.dense
    if features.sam is not None:
        tensors["sam"] = features.sam
    return tensors


def from_tensors(tensors: Mapping[str, Tensor]) -> Features:
    """Return the features that were given to `to_tensors`."""
    if "cells" in tensors:
        cells = tensors["cells"]  # (B, h, w, C)
        return PatchTokens(cells.flatten(1, 2), (cells.shape[1], cells.shape[2]))
    levels = {name: tensor for name, tensor in tensors.items() if name.startswith("res")}
    return FrozenFeatures(
        ClipFeatures(levels, tensors.get("dense", levels[max(levels)])), tensors.get("sam")
    )


def image_key(image: ImageBatch) -> str:
    """Return a digest of one image (1, 3, H, W) as the encoders receive it, including its size and
    padding."""
    shape = (image.sizes, tuple(image.pixels.shape))
    # Without padding, the key is that of older files, which did not include it.
    padded = (*shape, image.padding) if image.padding else shape
    digest = hashlib.sha256(repr(padded).encode())
    digest.update(image.pixels.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:32]
