"""SAM's proposals on disk: one small file for each image, valid only for the SAM that made it.

    FOLDER/proposals.json   the SAM, its weights and the settings with which the masks were made
    FOLDER/IMAGE_ID.npz     codes (P, h, w) int8, predicted_iou (P,) float32, and a checksum of the
                            pixels that SAM saw

In the file name, the id is percent-encoded; if it is too long for a file name, its end is replaced
by a digest. Files are written atomically, and several processes may write into one folder.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from frozenseg.errors import UserError
from frozenseg.files import (
    UNREADABLE,
    atomic_path,
    read_json,
    remove_temporaries,
    write_json,
)
from frozenseg.inference.proposals import Proposals

VERSION = 1
ABOUT = "proposals.json"
ARRAYS = ("codes", "predicted_iou", "pixels")
LONGEST = 251  # characters of a file name without its suffix; file systems allow 255
HASHED = 160  # how many of these characters are kept before a digest
MOST_BYTES = 2**30  # uncompressed, for one image; a file that declares more is refused


class ProposalFolder:
    """A folder with the proposals of many images, all made by one SAM with the same settings."""

    def __init__(self, folder: Path, identity: Mapping[str, Any] | None, *, create: bool) -> None:
        """Open a folder; raises `UserError` if it has another identity.

        identity: everything that determines the masks, in JSON types; None: any folder is accepted.
        create: whether to create the folder if needed.
        """
        self.folder = folder
        expected = json.loads(json.dumps({"version": VERSION, **(identity or {})}))
        about = folder / ABOUT
        if create:
            remove_temporaries(folder, "*.npz", alone=False)
        if create and not about.is_file():
            write_json(about, expected, indent=1)
        elif not about.is_file():
            raise UserError(
                f"{folder}: no {ABOUT}, so this is not a folder of proposals; create one with "
                "frozenseg make_sam_masks, or give no folder"
            )
        actual = read_json(about)
        if not isinstance(actual, dict):
            raise UserError(f"{about}: damaged, a JSON object was expected; make the folder again")
        if identity is None:
            expected = {**actual, **expected}
        if actual != expected:
            keys = {*actual, *expected}
            differ = sorted(key for key in keys if actual.get(key) != expected.get(key))
            pairs = "; ".join(f"{key} {actual.get(key)}, not {expected.get(key)}" for key in differ)
            raise UserError(
                f"{folder}: these proposals were made with other settings ({pairs}); use another "
                "folder, or the settings with which they were made"
            )

    def path(self, image_id: int | str) -> Path:
        """Return the file of an image."""
        name = quote(str(image_id), safe="")
        if len(name) > LONGEST:  # e.g. 28 Chinese characters, each encoded as 9 characters
            name = f"{name[:HASHED]}-{hashlib.sha256(name.encode()).hexdigest()}"
        return self.folder / f"{name}.npz"

    def require(self, image_ids: Iterable[int | str]) -> None:
        """Raise `UserError` if images have no file; the contents of files are not checked."""
        missing = [image_id for image_id in image_ids if not self.path(image_id).is_file()]
        if missing:
            raise UserError(
                f"{self.folder}: {len(missing)} images have no proposals there, e.g. "
                f"{missing[0]!r}; frozenseg make_sam_masks adds the missing ones"
            )

    def has(self, image_id: int | str, image: Tensor) -> bool:
        """Return whether a valid file exists that was made from exactly this image."""
        try:
            self.load(image_id, image)
        except UserError:
            return False
        return True

    def has_another(self, image_id: int | str, image: Tensor) -> bool:
        """Return whether a valid file exists that was made from another image, or in another size.

        Saving the proposals of this image replaces it.
        """
        try:
            return int(_arrays(self.path(image_id))[2]) != checksum(image)
        except UserError:
            return False

    def save(self, image_id: int | str, image: Tensor, proposals: Proposals) -> None:
        """Write the proposals of an image (3, H, W), atomically."""
        with atomic_path(self.path(image_id)) as temporary:
            np.savez_compressed(
                temporary,
                codes=proposals.codes.numpy(),
                predicted_iou=proposals.predicted_iou.numpy(),
                pixels=np.array(checksum(image), dtype=np.uint32),
            )

    def load(self, image_id: int | str, image: Tensor) -> Proposals:
        """Read the proposals of an image (3, H, W), as the network sees it.

        Raises `UserError` if the file is missing, damaged, or made from another image.
        """
        path = self.path(image_id)
        codes, quality, pixels = _arrays(path)
        if int(pixels) != checksum(image):
            raise UserError(
                f"{path}: made from another image with the id {image_id}; perhaps the proposals "
                "are those of another data set"
            )
        if len(codes) and not _spans(codes, image):
            raise UserError(
                f"{path}: its masks do not have the shape of the image; delete the file, and "
                "frozenseg make_sam_masks creates it again"
            )
        return Proposals(torch.from_numpy(codes), torch.from_numpy(quality))


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read codes (P, h, w), predicted IoU (P,) and the checksum (), a scalar.

    Raises `UserError` if the file is missing or damaged, or has wrong types or values that are not
    finite.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
            raise OSError("no regular file")
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MOST_BYTES:
            raise ValueError(f"{size:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            codes, quality, pixels = (file[name] for name in ARRAYS)
        kinds = [(array.dtype, array.ndim) for array in (codes, quality, pixels)]
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; the folder lacks this image, and frozenseg make_sam_masks "
            "adds missing images"
        ) from None
    except UNREADABLE:
        raise UserError(
            f"{path}: damaged; frozenseg make_sam_masks creates damaged files again"
        ) from None
    right = kinds == [(np.int8, 3), (np.float32, 1), (np.uint32, 0)]
    if not right or len(quality) != len(codes) or not np.isfinite(quality).all():
        raise UserError(f"{path}: not a file of proposals written by frozenseg make_sam_masks")
    return codes, quality, pixels


def _spans(codes: np.ndarray, image: Tensor) -> bool:
    """Return whether masks (P, h, w) have the aspect ratio of an image (3, H, W) up to rounding."""
    height, width = image.shape[1:]
    rows, columns = codes.shape[1:]
    return rows > 0 and columns > 0 and abs(rows * width - columns * height) <= height + width


def checksum(image: Tensor) -> int:
    """Return a CRC-32 of the pixels of an image (3, H, W), rounded to integers in 0-255."""
    array = image.cpu().round().to(torch.uint8).contiguous().numpy()
    return zlib.crc32(array.data, zlib.crc32(repr(array.shape).encode()))
