"""Arguments that name a file to be written: tried before any work begins, and its kind known."""

from pathlib import Path

from frozenseg.errors import UserError
from frozenseg.files import check_writable, user_path

PICTURES = (".png", ".jpg", ".jpeg")


def output_file(text: str) -> Path:
    """Return the type of an option such as --json."""
    path = user_path(text)
    check_writable(path)
    return path


def output_picture(text: str) -> Path:
    """Return the type of an option that names a picture, whose ending says of which kind."""
    if Path(text).suffix.lower() not in PICTURES:
        raise UserError(f"{text}: end the name of a picture in {', '.join(PICTURES)}")
    return output_file(text)
