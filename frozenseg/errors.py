"""Errors that a user can act on, told in one line."""


class UserError(Exception):
    """Something the user gave cannot be used: the message names the thing and the remedy.

    Commands print it as one line and exit with status 2 (`frozenseg.commands.run`); library callers
    catch it as any other exception.

    Example:
        >>> try:
        ...     frozenseg.load("smal")
        ... except frozenseg.UserError as error:
        ...     print(error)
        model smal: no such model in the package, ...
    """


class TextTooLong(UserError):
    """A text of which an encoder reads only the begin. index: its place among those given."""

    def __init__(self, text: str, index: int, tokens: int, limit: int) -> None:
        super().__init__(
            f"{text[:60]!r}: {tokens} tokens, the text encoder reads {limit}; use a shorter name"
        )
        self.index, self.tokens, self.limit = index, tokens, limit


class WriteError(UserError):
    """A file or folder cannot be written: no room, no permission, a limit of the file system.

    What is only there to save time (a cache, a picture of curves) goes without it; other callers
    let it end the command.
    """


def one_line(text: str) -> str:
    """The text with line breaks and other control characters written out, as `\\n`: names of files
    may hold any, and a terminal would obey them."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def nearest(name: str, known: list[str], count: int = 3) -> str:
    """A phrase that suggests the known names closest to `name`: "did you mean a, b?"."""
    import difflib

    close = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"


def listed(names: list[str], most: int = 6) -> str:
    """Names in a row, the first of many and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
