"""Arguments that name a file to be written: tried before any work begins, and its kind known."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from frozenseg.errors import UserError
from frozenseg.files import check_writable, user_path

PICTURES = (".png", ".jpg", ".jpeg")


def output_file(text: str) -> Path:
    """Return the path of an option such as --json, at which a file can be written.

    No folder is left behind; those of the path are made when the file is written.
    """
    path = user_path(text)
    new = [folder for folder in path.parents if not folder.exists()]
    try:
        check_writable(path)
    finally:
        for folder in new:
            with suppress(OSError):  # another process has put something there
                folder.rmdir()
    return path


def output_picture(text: str) -> Path:
    """Return the path of an option that names a picture, whose ending says of which kind."""
    if Path(text).suffix.lower() not in PICTURES:
        raise UserError(f"{text}: end the name of a picture in {', '.join(PICTURES)}")
    return output_file(text)


def refuse_input(output: Path | None, inputs: Iterable[Path]) -> None:
    """Raise `UserError` if an output is one of the inputs, by whatever name, and would replace it.

    output: None, or a file that is not there yet, is none of them.
    """
    if output is None or not output.is_file():
        return
    for path in inputs:
        if path.exists() and output.samefile(path):
            raise UserError(f"{output}: is an input too, and would be lost; choose another name")
