"""Small encoders that are not shipped: which file an arm reads, and which command makes it."""

from collections.abc import Iterable
from pathlib import Path

from frozenseg.errors import UserError
from frozenseg.small_world.experiment.arms import ENCODERS

MADE_BY = {
    "moco": "train_small_vit --method moco",
    "dino": "train_small_vit --method dino",
    "bert": "train_small_bert",
}
"""The command that makes an encoder, by its folder below that of all encoders."""


def check_encoders(options: Iterable[str], folder: Path) -> None:
    """Raise `UserError` if the options of an arm name an encoder that is not there."""
    for option in options:
        if not option.startswith(f"{ENCODERS}/"):
            continue
        path = Path(option.replace(ENCODERS, str(folder)))
        if not path.exists():
            name = path.relative_to(folder).parts[0]
            raise UserError(
                f"{path}: no such encoder; make it with "
                f"`frozenseg {MADE_BY[name]} --output {folder / name}`, or give --encoders"
            )
