"""Arguments that name an output file, which is checked before any work begins."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from frozenseg.errors import UserError
from frozenseg.files import check_writable, user_path

PICTURES = (".png", ".jpg", ".jpeg")


def output_file(text: str) -> Path:
    """Check that a file can be written; the type of options such as --json.

    Missing folders are made later, when the file is written.
    """
    path = user_path(text)
    new = [folder for folder in path.parents if not folder.exists()]
    try:
        check_writable(path)
    finally:
        for folder in new:
            with suppress(OSError):  # another process may have put a file there
                folder.rmdir()
    return path


def output_picture(text: str) -> Path:
    """Check the name of a picture to write, whose suffix decides its format; an option's type."""
    if Path(text).suffix.lower() not in PICTURES:
        raise UserError(f"{text}: a picture's name must end in {', '.join(PICTURES)}")
    return output_file(text)


def refuse_input(output: Path | None, inputs: Iterable[Path]) -> None:
    """Raise `UserError` if an output file is one of the inputs, which it would replace.

    Links to an input count as that input. output: None and files that do not exist yet are allowed.
    """
    if output is None or not output.is_file():
        return
    for path in inputs:
        if path.exists() and output.samefile(path):
            raise UserError(
                f"{output}: is an input too, and would be overwritten; choose another name"
            )
