"""Train the small SAM on the small world, from scratch; writes weights.safetensors."""

import argparse

from frozenseg.commands.number_arguments import check_least
from frozenseg.encoders.sam import build_sam_model
from frozenseg.small_world.commands import training_arguments
from frozenseg.small_world.pretraining.loop import train
from frozenseg.small_world.pretraining.sam import SamTask


def main(argv: list[str]) -> int | None:
    """Train, and print the scores."""
    arguments = _parser().parse_args(argv)
    check_least(arguments, masks=1, rounds=1)
    config, run = training_arguments.settings_from(
        arguments, weight_decay=0.05, of_task=("masks", "rounds")
    )
    task = SamTask(
        model=build_sam_model("small"),
        seed=config.seed,
        masks=arguments.masks,
        rounds=arguments.rounds,
        test_images=arguments.test_samples,
    )
    training_arguments.report(train(task, config, run, resume=arguments.resume))
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg train_small_sam", description=__doc__)
    training_arguments.add_run_arguments(parser, steps=2400, batch=4, tests=100)
    add = parser.add_argument
    add("--masks", type=int, default=8, help="masks per image (default: %(default)s)")
    add("--rounds", type=int, default=1, help="prompt rounds per image (default: %(default)s)")
    return parser
