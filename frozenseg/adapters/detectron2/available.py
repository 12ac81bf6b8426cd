"""Checks that detectron2 is installed; imported first, so that the error is a single line."""

from importlib import import_module

from frozenseg.errors import UserError

SOURCE = "https://github.com/facebookresearch/detectron2"


class MissingDetectron2(UserError, ImportError):
    """detectron2 cannot be imported. Our commands print one line; code can catch `ImportError`."""


def require_detectron2() -> None:
    """Raise `MissingDetectron2`, with the remedy, unless detectron2 can be imported."""
    try:
        import_module("detectron2")
        import_module("detectron2.data")  # also loads detectron2's compiled extension
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "detectron2"
        reason = "is not installed" if absent else f"cannot be loaded ({error})".replace("\n", " ")
        raise MissingDetectron2(
            f"detectron2 {reason}; it is built from source: `git clone {SOURCE}`, then "
            "`pip install --no-build-isolation ./detectron2`"
        ) from None


require_detectron2()
