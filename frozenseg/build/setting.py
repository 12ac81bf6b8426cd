"""Name the configuration key in an error that the library raises about a value of it.

The library takes plain arguments and knows no keys, so its messages are completed here.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from frozenseg.errors import UserError

OR_RANDOM = "; or set MODEL.ALLOW_RANDOM_WEIGHTS True to try the program without"
"""Ends a message about weights that are absent."""


@contextmanager
def setting(key: str, remedy: str = "") -> Iterator[None]:
    """Put a key before the message of a `UserError` that is raised inside, and a remedy behind it.

    The library's message begins with the value: "vit_x: unknown" becomes "MODEL.SAM_NAME vit_x:
    unknown". Also a decorator of a function that is called later.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{key} {error}{remedy}") from error
