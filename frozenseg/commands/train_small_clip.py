"""Train the small CLIP on the small world, from nothing; writes weights.safetensors."""

import argparse

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from frozenseg.commands.training_arguments import add_run_arguments, run_from, settings_from
from frozenseg.encoders.clip import build_clip_model
from frozenseg.errors import UserError
from frozenseg.pretraining.clip import ClipTask
from frozenseg.pretraining.loop import train

NAME = "frozenseg_small"
MEAN = [255 * value for value in OPENAI_DATASET_MEAN]
STD = [255 * value for value in OPENAI_DATASET_STD]


def main(argv: list[str]) -> int | None:
    arguments = _parser().parse_args(argv)
    if arguments.side < 32 or arguments.side % 32:
        raise UserError(f"--side {arguments.side}: must be a multiple of 32")
    settings, run = settings_from(arguments, weight_decay=0.1), run_from(arguments)
    torch.manual_seed(settings.seed)
    task = ClipTask(
        model=build_clip_model(NAME, quick_gelu=False),
        seed=settings.seed,
        side=arguments.side,
        mean=MEAN,
        std=STD,
        test_images=arguments.test_images,
    )
    for name, value in train(task, settings, run, resume=arguments.resume).items():
        print(f"{name:28s} {value:6.2f}")
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train_small_clip", description=__doc__)
    add_run_arguments(parser, steps=6000, batch=128, learning_rate=1e-3, test_images=1000)
    parser.add_argument("--side", type=int, default=128, help="pixels (default: %(default)s)")
    return parser
