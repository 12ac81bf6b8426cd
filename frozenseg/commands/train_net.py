"""Train a model, or evaluate it on every set of DATASETS.TEST (--eval-only)."""

import argparse
import sys
from dataclasses import dataclass

import torch

from frozenseg.build.device import build_device
from frozenseg.build.evaluation import evaluate, unexpected_results
from frozenseg.build.run_folder import evaluation_weights
from frozenseg.build.training import train
from frozenseg.commands.precision_argument import add_precision, precision_options
from frozenseg.config import load_config
from frozenseg.engine.distributed import INTERRUPTED, LaunchConfig, launch
from frozenseg.errors import UserError


@dataclass(frozen=True)
class Request:
    """The command line in a form that can be sent to other processes."""

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
    """Start the processes of a run, after its configuration has been checked."""
    arguments = argument_parser(_program(), __doc__ or "").parse_intermixed_args(argv)
    request = Request.of(arguments)
    cfg = load_config(request.config, request.options)  # errors are known before any process starts
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
    """Refuse more processes than there are GPUs, unless the CPU was chosen for them."""
    found = torch.cuda.device_count()
    if count > max(found, 1) and (device.type == "cuda" or not chosen):
        raise UserError(
            f"--num-gpus {count}: PyTorch finds {found or 'no'} GPU{'' if found == 1 else 's'} "
            "here; for processes on the CPU add MODEL.DEVICE cpu"
        )


def _program() -> str:
    """Return the command as it was called, e.g. by its alias: `frozenseg train`."""
    called = sys.argv[0]
    return called if called.startswith("frozenseg ") else "frozenseg train_net"


def work(request: Request) -> int:
    """Do the whole job of one process; returns the exit status, 1 for unexpected results."""
    cfg = load_config(request.config, request.options)
    if request.eval_only:
        weights = evaluation_weights(
            cfg.MODEL.WEIGHTS,
            config=request.config,
            options=request.options,
            output=cfg.OUTPUT_DIR,
        )
        scores = evaluate(cfg, weights=weights)
    else:
        result = train(cfg, resume=request.resume)
        if not result.finished:
            return INTERRUPTED
        scores = result.scores
    return 1 if unexpected_results(cfg, scores) else 0


def argument_parser(
    program: str,
    description: str,
    epilog: str = "Also runs under torchrun, which then says how many processes there are.",
) -> argparse.ArgumentParser:
    """Make the parser of the published command line."""
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
        help="how many processes to start on this machine, each with a GPU of its own, or on the "
        "CPU with MODEL.DEVICE cpu (default: %(default)s)",
    )
    add(
        "--num-machines",
        type=int,
        default=1,
        help="how many machines train together; start the command on each (default: %(default)s)",
    )
    add(
        "--machine-rank",
        type=int,
        default=0,
        help="the number of this machine, from 0 (default: %(default)s)",
    )
    add(
        "--dist-url",
        default="auto",
        help="the address at which machine 0 listens, tcp://HOST:PORT (default: one of its own)",
    )
    add(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in OUTPUT_DIR, or start where there is none",
    )
    add(
        "--eval-only",
        action="store_true",
        help="score the weights in OUTPUT_DIR, or MODEL.WEIGHTS, on DATASETS.TEST; train nothing",
    )
    add_precision(parser)
    add(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="KEY VALUE pairs, as the published command lines give them",
    )
    add("options", nargs="*", metavar="KEY VALUE", help="settings that replace those of the file")
    return parser
