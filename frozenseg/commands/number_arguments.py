"""Numbers on the command line: how small each may be."""

import argparse

from frozenseg.errors import UserError


def check_least(arguments: argparse.Namespace, **least: int) -> None:
    """Raise `UserError` for the first number that is too small, before any work begins.

    least: the smallest allowed value by the name of the argument, which may be one number, several
    or None.
    """
    for name, smallest in least.items():
        given = getattr(arguments, name)
        for number in given if isinstance(given, list | tuple) else [given]:
            if number is not None and not number >= smallest:  # NaN is not
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} {number}: must be at least {smallest}")
