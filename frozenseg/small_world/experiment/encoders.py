"""Small encoders that are not shipped: which file an arm reads, and which command makes it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from frozenseg.errors import UserError
from frozenseg.files import sha256_of
from frozenseg.small_world.experiment.arms import ENCODERS

MADE_BY = {
    "moco": "train_small_vit --method moco",
    "dino": "train_small_vit --method dino",
    "bert": "train_small_bert",
}
"""The command that makes an encoder, by its folder below that of all encoders."""


def encoder_digests(options: Iterable[str], folder: Path) -> dict[str, str]:
    """Return a digest of each encoder that the options of an arm name, by its path below `folder`.

    The digest of a folder covers the names and contents of all files in it. Raises `UserError` if
    an encoder is not there.
    """
    digests = {}
    for option in options:
        if not option.startswith(f"{ENCODERS}/"):
            continue
        path = Path(option.replace(ENCODERS, str(folder)))
        inside = path.relative_to(folder)
        if not path.exists():
            name = inside.parts[0]
            raise UserError(
                f"{path}: no such encoder; make it with "
                f"`frozenseg {MADE_BY[name]} --output {folder / name}`, or give --encoders"
            )
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        lines = [f"{f.relative_to(path)} {sha256_of(f)}\n" for f in files if f.is_file()]
        digests[str(inside)] = hashlib.sha256("".join(lines).encode()).hexdigest()
    return digests
