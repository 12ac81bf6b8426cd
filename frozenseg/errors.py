"""Errors that a user can act on, each with a one-line message."""

import difflib
import importlib
from types import ModuleType
from typing import Any


class UserError(Exception):
    """The user's input cannot be used; the message names the input and the remedy.

    Commands print the message as one line and exit with status 2 (`frozenseg.commands.run`);
    callers of the library catch it like any other exception. The subclasses for wrong values and
    missing files also derive from the built-in error that one would catch in that case.

    Example:
        >>> try:
        ...     frozenseg.load("smal")
        ... except frozenseg.UserError as error:
        ...     print(error)
        configuration smal: no such file, ... did you mean small?
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the constructor, because some subclasses take other arguments.

        A process pool would wait forever for an error that cannot be unpickled.
        """
        return _restored, (type(self), self.args), vars(self)


def _restored(kind: type[UserError], arguments: tuple[Any, ...]) -> UserError:
    return kind.__new__(kind, *arguments)


class UserValueError(UserError, ValueError):
    """A value from the user, such as an image, a name or a threshold, cannot be used."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user names does not exist."""


class MissingPackageError(UserError, ImportError):
    """An optional package that is needed here is not installed."""


class TextTooLong(UserError):
    """A text is longer than the context of the text encoder.

    index: the index of the text among the given ones. tokens: its length in tokens.
    limit: the maximum number of tokens that the encoder reads.
    """

    def __init__(self, text: str, index: int, tokens: int, limit: int) -> None:
        super().__init__(
            f"{text[:60]!r}: {tokens} tokens, the text encoder reads {limit}; use a shorter name"
        )
        self.index, self.tokens, self.limit = index, tokens, limit


class WriteError(UserError):
    """A file or folder cannot be written, e.g. for a full disk or a lack of permission.

    Callers whose file is dispensable (a cache, a plot) continue without it; in all other cases the
    command ends.
    """


def one_line(text: str) -> str:
    """Return the text with control characters escaped, e.g. a line break as `\\n`.

    File names may contain any control characters, and a terminal would execute them.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def reason_of(error: Exception) -> str:
    """Say on one line why a file system, a store or a library failed."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def nearest(name: str, known: list[str], count: int = 3) -> str:
    """Return a phrase that suggests the known names closest to `name`: "did you mean a, b?"."""
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"


def listed(names: list[str], most: int = 6) -> str:
    """Join names by commas; after `most` names, only say how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or raise a `MissingPackageError` that says how to install it.

    extra: the extra of frozenseg that installs it.
    purpose: what the package is needed for; begins the message.
    """
    return import_package(module, purpose, f'"frozenseg[{extra}]"')


def import_package(module: str, purpose: str, install: str = "") -> ModuleType:
    """Do the same as `import_extra` for a package that no extra of frozenseg installs.

    install: the argument of pip install; "": the name of the missing module.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        absent = (error.name or module).partition(".")[0]
        raise MissingPackageError(
            f"{purpose} needs {absent}: pip install {install or absent}"
        ) from None


def sendable_token(token: str) -> str:
    """Return a token that can be sent, stripped of the line break at the end of its file.

    Raises `UserError` for a token that cannot be sent in an HTTP header; the error of the HTTP
    library would reveal the token.
    """
    word = token.strip()
    if not word or not word.isascii() or not word.isprintable():
        raise UserError("the token is not one line of ASCII characters; give it as you received it")
    return word
