"""Train a model, or evaluate it on every data set of DATASETS.TEST (--eval-only)."""

import argparse
import logging
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from frozenseg.build.device import build_device
from frozenseg.build.evaluation import Spread, evaluate, unexpected_results
from frozenseg.build.run_folder import evaluation_weights
from frozenseg.build.training import train
from frozenseg.checkpoints.published_files import PUBLISHED
from frozenseg.commands.engine_arguments import add_engine, ray_of
from frozenseg.commands.precision_argument import add_precision, precision_options
from frozenseg.config import load_config
from frozenseg.engine.distributed import INTERRUPTED, LaunchConfig, is_main, launch
from frozenseg.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """The command line, in a form that can be sent to other processes."""

    config: str | None
    options: list[str]
    resume: bool
    eval_only: bool

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Request":
        """Take what a run needs from the arguments of `argument_parser`."""
        options = [*precision_options(arguments), *arguments.opts, *arguments.options]
        return cls(arguments.config_file, options, arguments.resume, arguments.eval_only)


def main(argv: list[str]) -> int | None:
    """Check the configuration, and start the processes of the run."""
    parser = argument_parser(_program(), __doc__ or "")
    add_engine(parser, actors="processes of --eval-only")
    arguments = parser.parse_intermixed_args(argv)
    request, ray = Request.of(arguments), ray_of(arguments)
    if ray is not None:
        return _on_ray(request, arguments, ray)
    # Errors in the configuration are reported before any process starts.
    cfg = load_config(request.config, request.options)
    device = build_device(cfg)
    _check_gpus(arguments.num_gpus, device, chosen=cfg.MODEL.DEVICE != "auto")
    layout = LaunchConfig(
        processes=arguments.num_gpus,
        machines=arguments.num_machines,
        machine=arguments.machine_rank,
        url=arguments.dist_url,
        backend="cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
    )
    return launch(work, request, layout)


def _check_gpus(count: int, device: torch.device, *, chosen: bool) -> None:
    """Raise `UserError` for more processes than GPUs, unless the CPU was chosen explicitly."""
    found = torch.cuda.device_count()
    if count > max(found, 1) and (device.type == "cuda" or not chosen):
        raise UserError(
            f"--num-gpus {count}: PyTorch finds {found or 'no'} GPU{'' if found == 1 else 's'} "
            "here; for processes on the CPU add MODEL.DEVICE cpu"
        )


def _on_ray(request: Request, arguments: argparse.Namespace, ray: dict[str, Any]) -> int:
    if not request.eval_only or arguments.num_gpus * arguments.num_machines > 1:
        raise UserError(
            "--engine ray: only applies to --eval-only, whose images it divides among --actors; "
            "leave it out for training, and with --num-gpus or --num-machines"
        )
    from frozenseg.batch.on_ray import run_parts

    return _evaluate(request, partial(run_parts, **ray))


def _program() -> str:
    """Return the command as the user typed it, e.g. by its alias: `frozenseg train`."""
    called = sys.argv[0]
    return called if called.startswith("frozenseg ") else "frozenseg train_net"


def work(request: Request) -> int:
    """Do the entire work of one process; return the exit status, 1 for unexpected results."""
    if request.eval_only:
        return _evaluate(request)
    cfg = load_config(request.config, request.options)
    published = PUBLISHED.get(request.config or "")
    if published is not None and not cfg.MODEL.WEIGHTS and is_main():
        logger.warning(
            "%s: training uses only its recipe, not its weights; to start from the weights, add "
            "MODEL.WEIGHTS %s",
            request.config,
            published.path,
        )
    result = train(cfg, resume=request.resume)
    if not result.finished:
        return INTERRUPTED
    return 1 if unexpected_results(cfg, result.scores) else 0


def _evaluate(request: Request, spread: Spread | None = None) -> int:
    cfg = load_config(request.config, request.options)
    weights = evaluation_weights(
        cfg.MODEL.WEIGHTS,
        config=request.config,
        options=request.options,
        output=cfg.OUTPUT_DIR,
    )
    scores = evaluate(cfg, weights=weights, spread=spread)
    return 1 if unexpected_results(cfg, scores) else 0


def argument_parser(
    program: str,
    description: str,
    epilog: str = "The command also runs under torchrun, which then sets the number of processes.",
) -> argparse.ArgumentParser:
    """Return the parser of the published command line."""
    parser = argparse.ArgumentParser(prog=program, description=description, epilog=epilog)
    add = parser.add_argument
    add(
        "--config-file",
        "--config",
        help="a YAML file, the folder of a run, or the name of a recipe (default: the published "
        "model)",
    )
    add(
        "--num-gpus",
        type=int,
        default=1,
        help="number of processes to start on this machine, each with its own GPU, or on the CPU "
        "with MODEL.DEVICE cpu (default: %(default)s)",
    )
    add(
        "--num-machines",
        type=int,
        default=1,
        help="number of machines that train together; start the command on each of them (default: "
        "%(default)s)",
    )
    add(
        "--machine-rank",
        type=int,
        default=0,
        help="number of this machine, from 0 (default: %(default)s)",
    )
    add(
        "--dist-url",
        default="auto",
        help="the address at which machine 0 listens, tcp://HOST:PORT (default: chosen "
        "automatically, for one machine)",
    )
    add(
        "--resume",
        action="store_true",
        help="continue from the newest checkpoint in OUTPUT_DIR, or start if there is none",
    )
    add(
        "--eval-only",
        action="store_true",
        help="only evaluate: score the weights in OUTPUT_DIR, or MODEL.WEIGHTS, on DATASETS.TEST",
    )
    add_precision(parser)
    add(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="KEY VALUE pairs, as in the published command lines",
    )
    add(
        "options",
        nargs="*",
        metavar="KEY VALUE",
        help="settings that override those of the YAML file",
    )
    return parser
