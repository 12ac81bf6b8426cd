"""Train the small CLIP on the small world, from nothing; writes weights.safetensors."""

import argparse
from pathlib import Path

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from frozenseg.commands.training_arguments import add_run_arguments, run_from, settings_from
from frozenseg.encoders.clip import build_clip_model
from frozenseg.engine.weights import read_state
from frozenseg.errors import UserError
from frozenseg.pretraining.clip import ClipTask, prepare
from frozenseg.pretraining.loop import train

NAME = "frozenseg_small"
MEAN = [255 * value for value in OPENAI_DATASET_MEAN]
STD = [255 * value for value in OPENAI_DATASET_STD]


def main(argv: list[str]) -> int | None:
    arguments = _parser().parse_args(argv)
    if not 0 <= arguments.easy_share <= 1:
        raise UserError(f"--easy-share {arguments.easy_share}: must lie in 0-1")
    settings, run = settings_from(arguments, weight_decay=0.1), run_from(arguments)
    torch.manual_seed(settings.seed)
    mosaics = arguments.mosaics_of is not None
    model = build_clip_model(NAME, quick_gelu=False)
    if mosaics:
        model.load_state_dict(read_state(arguments.mosaics_of))
    else:
        prepare(model)
    easy_steps = int(arguments.easy_share * settings.steps)
    task = ClipTask(
        model=model,
        seed=settings.seed,
        side=model.visual.image_size,
        easy_pairs=easy_steps * settings.batch,
        mosaics=mosaics,
        mean=MEAN,
        std=STD,
        test_images=arguments.test_images,
    )
    for name, value in train(task, settings, run, resume=arguments.resume).items():
        print(f"{name:28s} {value:6.2f}")
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train_small_clip", description=__doc__)
    add_run_arguments(parser, steps=1800, batch=96, learning_rate=1e-3, test_images=1000)
    parser.add_argument(
        "--easy-share",
        type=float,
        default=0.5,
        help="of the steps, with images of one thing and captions of one word (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--mosaics-of",
        type=Path,
        help="weights of a first training: go on with mosaics, so that regions get their names",
    )
    return parser
