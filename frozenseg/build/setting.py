"""Errors about the values of a configuration.

The library takes plain arguments and does not know the configuration keys, so `setting` adds them
to its messages.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from fvcore.common.config import CfgNode

from frozenseg.errors import MissingFileError, UserError

OR_RANDOM = "; or set MODEL.ALLOW_RANDOM_WEIGHTS True to try the program without weights"
"""The end of messages about absent weights."""


@contextmanager
def setting(key: str, remedy: str = "") -> Iterator[None]:
    """Put a key before the message of a `UserError` that is raised inside, and a remedy after it.

    The library's messages begin with the value: "vit_x: unknown" becomes "MODEL.SAM_NAME vit_x:
    unknown". The remedy is not added to a `MissingFileError`, whose message has its own. This
    context manager can also decorate a function that is called later.
    """
    try:
        yield
    except UserError as error:
        remedy = "" if isinstance(error, MissingFileError) else remedy
        error.args = (f"{key} {error}{remedy}",)  # the same error, so that its type is kept
        raise


def data_sets(cfg: CfgNode, key: str) -> tuple[str, ...]:
    """Return the names in DATASETS.TRAIN or DATASETS.TEST.

    Raises `UserError` if there are none, or if DATASETS.TEST names a set twice. A set that
    DATASETS.TRAIN names twice is trained on twice as often.
    """
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
