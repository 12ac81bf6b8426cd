"""Modules of users that add rows to the package's tables: benchmarks, encoders, losses, families.

A command imports them where it is started (`--import MODULE`), and every process that it starts
does so again.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Iterable

from frozenseg.errors import UserError

OPTION = "--import"
_imported: list[str] = []


def import_extensions(names: Iterable[str]) -> None:
    """Import modules by their full names, also from the working folder.

    A module that cannot be imported is a `UserError` that says where in it the error is.
    """
    here = os.getcwd()
    for name in names:
        if here not in sys.path:
            sys.path.append(here)
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module of a user raises
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = "" if "importlib" in last.filename else f", {last.filename}:{last.lineno}"
            reason = f"{type(error).__name__}: {error}{where}"
            raise UserError(f"{OPTION} {name}: cannot be imported ({reason})") from error
        if name not in _imported:
            _imported.append(name)


def imported_extensions() -> tuple[str, ...]:
    """Return what this process has imported, for the processes that it starts."""
    return tuple(_imported)


def take_extensions(arguments: list[str]) -> list[str]:
    """Import what `--import MODULE` names among the arguments of a command; return the others."""
    names, others = [], []
    left = iter(arguments)
    for argument in left:
        if argument == OPTION:
            try:
                names.append(next(left))
            except StopIteration:
                raise UserError(f"{OPTION}: the name of a module is missing") from None
        elif argument.startswith(f"{OPTION}="):
            names.append(argument.partition("=")[2])
        else:
            others.append(argument)
    import_extensions(names)
    return others
