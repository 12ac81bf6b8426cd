"""User modules that add rows to the package's tables of benchmarks, encoders, losses and families.

A command imports them when it starts (`--import MODULE`), and each process that it starts imports
them again.
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
    """Import modules by their full names; the working folder is searched too.

    Raises `UserError` for a module that cannot be imported, with the file and line of the error.
    """
    here = os.getcwd()
    for name in names:
        if here not in sys.path:
            sys.path.append(here)
        try:
            importlib.import_module(name)
        # A user's module may raise anything; after its sys.exit() the command would end in silence.
        except (Exception, SystemExit) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = "" if "importlib" in last.filename else f", {last.filename}:{last.lineno}"
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
            raise UserError(f"{OPTION} {name}: cannot be imported ({reason})") from error
        if name not in _imported:
            _imported.append(name)


def imported_extensions() -> tuple[str, ...]:
    """Return the names of the modules imported so far, for the processes that this one starts."""
    return tuple(_imported)


def take_extensions(arguments: list[str]) -> list[str]:
    """Import the modules of `--import MODULE` in a command's arguments; return the others."""
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
