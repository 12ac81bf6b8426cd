"""Errors about the values of a configuration.

The library takes plain arguments and knows no keys, so `setting` completes its messages.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from fvcore.common.config import CfgNode

from frozenseg.errors import MissingFileError, UserError

OR_RANDOM = "; or set MODEL.ALLOW_RANDOM_WEIGHTS True to try the program without"
"""Ends a message about weights that are absent."""


@contextmanager
def setting(key: str, remedy: str = "") -> Iterator[None]:
    """Put a key before the message of a `UserError` that is raised inside, and a remedy behind it;
    that of a path which is not there says its own.

    The library's message begins with the value: "vit_x: unknown" becomes "MODEL.SAM_NAME vit_x:
    unknown". Also a decorator of a function that is called later.
    """
    try:
        yield
    except UserError as error:
        remedy = "" if isinstance(error, MissingFileError) else remedy
        error.args = (f"{key} {error}{remedy}",)  # its type stays
        raise


def data_sets(cfg: CfgNode, key: str) -> tuple[str, ...]:
    """Return the names in DATASETS.TRAIN or DATASETS.TEST; it is an error if there are none, or if
    one is to be tested twice. A set that is named twice is trained on twice as often."""
    names = tuple(cfg.DATASETS[key])
    if not names:
        raise UserError(f"DATASETS.{key} is empty: name at least one data set")
    twice = [name for name in names if names.count(name) > 1]
    if key == "TEST" and twice:
        raise UserError(f"DATASETS.TEST names {twice[0]} twice; name it once")
    return names


def require_weights(cfg: CfgNode) -> None:
    """Refuse a configuration without MODEL.WEIGHTS, unless random weights are allowed."""
    if not cfg.MODEL.WEIGHTS and not cfg.MODEL.ALLOW_RANDOM_WEIGHTS:
        raise UserError(
            "MODEL.WEIGHTS is empty: give a checkpoint (--weights FILE or MODEL.WEIGHTS FILE; "
            "`frozenseg download --list` names published ones)" + OR_RANDOM
        )
