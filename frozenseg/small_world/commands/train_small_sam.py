"""Train the small SAM on the small world, from nothing; writes weights.safetensors."""

import argparse

import torch

from frozenseg.encoders.sam import build_sam_model
from frozenseg.errors import UserError
from frozenseg.small_world.commands.training_arguments import (
    add_run_arguments,
    config_from,
    run_from,
)
from frozenseg.small_world.pretraining.loop import train
from frozenseg.small_world.pretraining.sam import SamTask


def main(argv: list[str]) -> int | None:
    """Train, and print the scores."""
    arguments = _parser().parse_args(argv)
    if arguments.masks < 1 or arguments.rounds < 1:
        raise UserError("--masks and --rounds must be at least 1")
    config, run = config_from(arguments, weight_decay=0.05), run_from(arguments)
    torch.manual_seed(config.seed)
    task = SamTask(
        model=build_sam_model("small"),
        seed=config.seed,
        masks=arguments.masks,
        rounds=arguments.rounds,
        test_images=arguments.test_images,
    )
    for name, value in train(task, config, run, resume=arguments.resume).items():
        print(f"{name:28s} {value:6.2f}")
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg train_small_sam", description=__doc__)
    add_run_arguments(parser, steps=2400, batch=4, learning_rate=1e-3, test_images=100)
    parser.add_argument("--masks", type=int, default=8, help="an image (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=1, help="of prompts an image (default: %(default)s)"
    )
    return parser
