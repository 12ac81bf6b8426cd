"""--engine ray and its options, for the commands that can distribute work over a Ray cluster."""

import argparse
from typing import Any

from frozenseg.errors import UserError, import_extra


def add_engine(parser: argparse.ArgumentParser, *, actors: str) -> None:
    """Add the options to a parser. actors: what --actors counts, for its help text."""
    add = parser.add_argument
    add(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="what runs the models: processes on this machine (default), or Ray",
    )
    add("--address", help="address of a Ray cluster (default: start Ray on this machine)")
    add(
        "--actors",
        type=int,
        help=f"{actors} under Ray (default: one for each GPU, or for every two CPUs)",
    )
    add(
        "--wait",
        type=float,
        help="seconds to wait until the Ray cluster has enough GPUs and CPUs (default: 0)",
    )


def ray_of(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return the Ray arguments of the functions in `batch.on_ray`, or None if Ray is not used."""
    only_ray = ("address", "actors", "wait")
    given = [f"--{name}" for name in only_ray if getattr(arguments, name) is not None]
    if arguments.engine != "ray":
        if given:
            raise UserError(f"{given[0]}: only applies to --engine ray")
        return None
    if arguments.actors is not None and arguments.actors < 1:
        raise UserError(f"--actors {arguments.actors}: must be at least 1")
    patience = 0.0 if arguments.wait is None else arguments.wait
    if not patience >= 0:  # also rejects NaN, with which the wait would never end
        raise UserError(f"--wait {patience:g}: must be a number of seconds, at least 0")
    import_extra("ray", "ray", "--engine ray")
    return {
        "address": arguments.address,
        "actors": arguments.actors,
        "patience": patience,
    }
