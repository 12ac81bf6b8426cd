"""--engine ray and its options, in the commands whose work a Ray cluster may share."""

import argparse
from typing import Any

from frozenseg.errors import UserError, import_extra


def add_engine(parser: argparse.ArgumentParser, *, actors: str) -> None:
    """Add the options. actors: what --actors counts."""
    add = parser.add_argument
    add(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="what starts the models: this machine's processes (default), or Ray",
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
    """Return how Ray is used, as the functions of `batch.on_ray` take it; None: it is not used."""
    only_ray = ("address", "actors", "wait")
    given = [f"--{name}" for name in only_ray if getattr(arguments, name) is not None]
    if arguments.engine != "ray":
        if given:
            raise UserError(f"{given[0]}: is for --engine ray")
        return None
    if arguments.actors is not None and arguments.actors < 1:
        raise UserError(f"--actors {arguments.actors}: must be at least 1")
    patience = 0.0 if arguments.wait is None else arguments.wait
    if not patience >= 0:  # nor NaN, of which no time is the end
        raise UserError(f"--wait {patience:g}: must be a number of seconds, at least 0")
    import_extra("ray", "ray", "--engine ray")
    return {
        "address": arguments.address,
        "actors": arguments.actors,
        "patience": patience,
    }
