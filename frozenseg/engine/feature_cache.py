"""What the frozen encoders make of training images, kept on disk so that they see each view once.

    FOLDER/FINGERPRINT/KEY.safetensors   the features of one image

The fingerprint stands for the encoders, the key for the pixels they get: what is found is what
would be computed. Files are whole or not there and are never changed: processes may share a folder.
"""

import hashlib
import logging
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from frozenseg.errors import WriteError
from frozenseg.files import atomic_path
from frozenseg.structures import AnyFeatures, ImageBatch

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"


class FeatureCache(Generic[AnyFeatures]):
    """Features of batches, from the disk or else from the encoders."""

    def __init__(
        self,
        folder: Path,
        *,
        fingerprint: str,
        limit: int,
        encode: Callable[[ImageBatch], AnyFeatures],
        kind: type[AnyFeatures],
        writers: int = 1,
    ) -> None:
        """fingerprint: of all that decides `encode`, but for the images. limit: bytes that all
        files below `folder` may have together. kind: what `encode` returns. writers: processes that
        fill the folder at the same pace; together they may exceed the limit by a file each, other
        runs that write there at once by as much as they write."""
        self.folder = folder
        self.fingerprint = fingerprint
        self.limit = limit
        self.encode = encode
        self.kind = kind
        self.found = 0  # images read from the disk so far
        self.encoded = 0  # images that the encoders were asked for
        self._writes = True
        self._writers = writers
        self._held = 0  # bytes below `folder`, as far as this process knows

    def __call__(self, images: ImageBatch, device: torch.device) -> AnyFeatures:
        """The features of a batch, on the device.

        Every image is encoded alone, so what is kept does not depend on its neighbours.
        """
        rows = [
            self._of_one(ImageBatch(pixels[None], [size]), device)
            for pixels, size in zip(images.pixels, images.sizes, strict=True)
        ]
        if len(rows) == 1:
            return self.kind.from_tensors(rows[0])
        joined = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        return self.kind.from_tensors(joined)

    def _of_one(self, image: ImageBatch, device: torch.device) -> dict[str, Tensor]:
        path = self.folder / self.fingerprint / f"{image_key(image)}{SUFFIX}"
        kept = read_tensors(path)
        if kept is not None:
            self.found += 1
            return {name: tensor.to(device) for name, tensor in kept.items()}
        tensors = self.encode(image.to(device)).tensors()
        self.encoded += 1
        if self._writes:
            self._write(path, tensors)
        return tensors

    def _write(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """A cache that cannot grow costs time, not the run: it says so once."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        try:
            if self._has_room(size):
                write_tensors(path, tensors)
                self._held += path.stat().st_size * self._writers
                return
            reason = f"full at {self.limit / 1e9:g} GB; see DATALOADER.FEATURE_CACHE_GB"
        except WriteError as error:
            reason = str(error)
        self._writes = False
        logger.warning(
            "feature cache %s: %s; from now on it is only read, other images are encoded each time",
            self.folder,
            reason,
        )

    def _has_room(self, size: int) -> bool:
        """Whether a file of `size` bytes may be added. The folder is walked when it seems full, not
        for every file: that would take longer with each."""
        if self._held == 0 or self._held + size > self.limit:
            self._held = folder_bytes(self.folder)
        return self._held + size <= self.limit


def image_key(image: ImageBatch) -> str:
    """A digest of one image (1, 3, H, W) as the encoders get it, its own size and padding
    included."""
    digest = hashlib.sha256(repr((image.sizes, tuple(image.pixels.shape))).encode())
    digest.update(image.pixels.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:32]


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors in their own types, with a checksum and their order in memory."""
    layout = [name for name, tensor in tensors.items() if _is_channels_last(tensor)]
    stored = {
        name: (tensor.permute(0, 2, 3, 1) if name in layout else tensor).cpu().contiguous()
        for name, tensor in tensors.items()
    }
    about = {"channels_last": " ".join(layout), "crc32": str(checksum(stored))}
    with atomic_path(path) as temporary:
        save_file(stored, temporary, about)


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """What `write_tensors` wrote, on the CPU; None if there is no file, or a damaged one, which is
    named in a warning."""
    if not path.exists():
        return None
    try:
        if not path.is_file():  # to open a pipe would wait for its writer
            raise OSError("no regular file")
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            # Copies: a file that is cut short while it is mapped would end the process. They also
            # begin where any tensor does, and so go the same way through a product.
            stored = {name: file.get_tensor(name).clone() for name in file.keys()}
    except FileNotFoundError:
        return None
    except (safetensors.SafetensorError, OSError) as error:
        logger.warning("features %s are damaged and left aside (%s)", path, error)
        return None
    if about.get("crc32") != str(checksum(stored)):
        logger.warning("features %s are damaged and left aside (wrong checksum)", path)
        return None
    # In another order the same numbers go other ways through a convolution, which then rounds
    # otherwise.
    for name in about.get("channels_last", "").split():
        stored[name] = stored[name].permute(0, 3, 1, 2)
    return stored


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """Of the bytes of contiguous tensors on the CPU."""
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(tensor.view(-1).view(torch.uint8).numpy().data, value)
        value = zlib.crc32(name.encode(), value)
    return value


def folder_bytes(folder: Path) -> int:
    """The bytes of all files below a folder; what others take away meanwhile does not count."""
    total = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(inner, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )
