"""A configuration as objects: the only part of the package that reads one."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frozenseg.build.models import build_model as build_model


def __getattr__(name: str) -> Any:
    """`build_model`, loaded at first use: a module of this folder loads no more than it needs."""
    if name != "build_model":
        raise AttributeError(f"module 'frozenseg.build' has no attribute {name!r}")
    from frozenseg.build.models import build_model

    return build_model
