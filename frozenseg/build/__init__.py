"""Build objects from a configuration; no other part of the package reads a configuration."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frozenseg.build.models import build_model as build_model


def __getattr__(name: str) -> Any:
    """Import `build_model` at first use, so that a module here imports no more than it needs."""
    if name != "build_model":
        raise AttributeError(f"module 'frozenseg.build' has no attribute {name!r}")
    from frozenseg.build.models import build_model

    return build_model
