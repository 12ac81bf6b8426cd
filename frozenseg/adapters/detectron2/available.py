"""Is detectron2 there? Imported first, so that its absence is told in one line."""

from importlib import import_module

from frozenseg.errors import UserError

SOURCE = "https://github.com/facebookresearch/detectron2"


class MissingDetectron2(UserError, ImportError):
    """detectron2 cannot be imported: one line from our commands, an `ImportError` to code."""


def require_detectron2() -> None:
    """Raise `MissingDetectron2`, with the remedy, unless detectron2 can be imported."""
    try:
        import_module("detectron2")
        import_module("detectron2.data")  # loads its compiled part, too
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "detectron2"
        reason = "is not installed" if absent else f"cannot be loaded ({error})".replace("\n", " ")
        raise MissingDetectron2(
            f"detectron2 {reason}; it is built from source: `git clone {SOURCE}`, then "
            "`pip install --no-build-isolation ./detectron2`"
        ) from None


require_detectron2()
