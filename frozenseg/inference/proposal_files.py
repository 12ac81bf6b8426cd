"""SAM's proposals on disk: one small file an image, usable only with what it was made for.

    FOLDER/proposals.json   what decided the masks: SAM, its weights, settings
    FOLDER/IMAGE_ID.npz     codes (P, h, w) int8, predicted_iou (P,) float32, and a checksum of the
                            pixels that SAM saw

A file is whole or not there; many processes may write into one folder.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from frozenseg.errors import UserError
from frozenseg.files import atomic_path, read_json, write_json
from frozenseg.inference.proposals import Proposals

VERSION = 1
ABOUT = "proposals.json"


class ProposalFolder:
    """Proposals of many images that were all made alike."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, create: bool) -> None:
        """identity: all that decides the masks, as JSON knows it. create: make the folder if it is
        not there. One of another identity is refused."""
        self.folder = folder
        wanted = json.loads(json.dumps({"version": VERSION, **identity}))
        about = folder / ABOUT
        if create and not about.is_file():
            write_json(about, wanted, indent=1)
        elif not about.is_file():
            raise UserError(
                f"{folder}: no {ABOUT}, so no folder of proposals; make one with frozenseg "
                "make_sam_masks, or give none to make the masks online"
            )
        found = read_json(about)
        if found != wanted:
            differ = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            pairs = "; ".join(f"{key} {found.get(key)}, not {wanted.get(key)}" for key in differ)
            raise UserError(
                f"{folder}: these proposals were made with other settings ({pairs}); take another "
                "folder, or the settings they were made with"
            )

    def path(self, image_id: int | str) -> Path:
        return self.folder / f"{quote(str(image_id), safe='')}.npz"

    def has(self, image_id: int | str, image: Tensor) -> bool:
        """Whether a whole file is there that was made from this very image."""
        try:
            self.load(image_id, image)
        except UserError:
            return False
        return True

    def save(self, image_id: int | str, image: Tensor, proposals: Proposals) -> None:
        with atomic_path(self.path(image_id)) as temporary:
            np.savez_compressed(
                temporary,
                codes=proposals.codes.numpy(),
                predicted_iou=proposals.predicted_iou.numpy(),
                pixels=np.array(checksum(image), dtype=np.uint32),
            )

    def load(self, image_id: int | str, image: Tensor) -> Proposals:
        """image: (3, H, W) as the network sees it; masks of another image are refused."""
        path = self.path(image_id)
        try:
            with np.load(path, allow_pickle=False) as file:
                codes, quality, pixels = file["codes"], file["predicted_iou"], file["pixels"]
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file; the folder lacks this image, frozenseg make_sam_masks goes "
                "on where it stopped"
            ) from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            raise UserError(
                f"{path}: damaged; frozenseg make_sam_masks makes such files anew"
            ) from None
        if codes.dtype != np.int8 or codes.ndim != 3 or quality.shape != codes.shape[:1]:
            raise UserError(f"{path}: no proposals as frozenseg make_sam_masks writes them")
        if int(pixels) != checksum(image):
            raise UserError(
                f"{path}: made from another image with the id {image_id}; are these the proposals "
                "of another data set?"
            )
        return Proposals(torch.from_numpy(codes), torch.from_numpy(quality))


def checksum(image: Tensor) -> int:
    """Of the pixels of an image (3, H, W), whole numbers in 0-255."""
    array = image.cpu().round().to(torch.uint8).contiguous().numpy()
    return zlib.crc32(array.data, zlib.crc32(repr(array.shape).encode()))
