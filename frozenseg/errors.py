"""Errors that a user can act on, each with a message of one line."""

import difflib
import importlib
from types import ModuleType
from typing import Any


class UserError(Exception):
    """The user's input cannot be used; the message names it and the remedy.

    Commands print the message as one line and exit with status 2 (`frozenseg.commands.run`);
    callers of the library catch it like any other exception. Where a value is wrong or a file is
    missing, it is also the built-in error that people catch for that.

    Example:
        >>> try:
        ...     frozenseg.load("smal")
        ... except frozenseg.UserError as error:
        ...     print(error)
        configuration smal: no such file, ... did you mean small?
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the constructor, which takes other arguments in some subclasses: a pool
        of processes would wait for ever for an error that cannot be read."""
        return _restored, (type(self), self.args), vars(self)


def _restored(kind: type[UserError], arguments: tuple[Any, ...]) -> UserError:
    return kind.__new__(kind, *arguments)


class UserValueError(UserError, ValueError):
    """A value that the user gives cannot be used: an image, a name, a threshold."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user names does not exist."""


class MissingPackageError(UserError, ImportError):
    """A package that only some uses need is not installed."""


class TextTooLong(UserError):
    """A text that is longer than the text encoder's context.

    index: of the text among those given. tokens: its length. limit: the encoder's context.
    """

    def __init__(self, text: str, index: int, tokens: int, limit: int) -> None:
        super().__init__(
            f"{text[:60]!r}: {tokens} tokens, the text encoder reads {limit}; use a shorter name"
        )
        self.index, self.tokens, self.limit = index, tokens, limit


class WriteError(UserError):
    """A file or folder cannot be written: the disk is full, or there is no permission.

    Callers whose files only save time (a cache, a plot) go on without them; for others the command
    ends.
    """


def one_line(text: str) -> str:
    """Return the text with control characters escaped, e.g. a line break as `\\n`.

    Names of files may have any of them, and a terminal would obey them.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def nearest(name: str, known: list[str], count: int = 3) -> str:
    """Return a phrase that suggests the known names closest to `name`: "did you mean a, b?"."""
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"


def listed(names: list[str], most: int = 6) -> str:
    """Names separated by commas; of many names, the first and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a package that only some uses need, or raise a `UserError` that says how to get it.

    extra: the extra of our package that brings it. purpose: what it is needed for; begins the
    message.
    """
    return import_package(module, purpose, f'"frozenseg[{extra}]"')


def import_package(module: str, purpose: str, install: str = "") -> ModuleType:
    """As `import_extra`, for a package of others. install: what pip installs; "": its name."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        absent = (error.name or module).partition(".")[0]
        raise MissingPackageError(
            f"{purpose} needs {absent}: pip install {install or absent}"
        ) from None


def sendable_token(token: str) -> str:
    """Return a token as it can be sent, without the line break at the end of its file.

    Raises `UserError` for one that cannot be, because the error of the transport would tell it.
    """
    word = token.strip()
    if not word or not word.isascii() or not word.isprintable():
        raise UserError("the token is no line of ASCII characters; give it as you were given it")
    return word
