"""Train the small CLIP on the small world, from scratch; writes weights.safetensors.

The first stage trains on images and writes to the folder `images` of --output; the second stage
trains on mosaics. With --mosaic-steps 0, the first stage is the only one and writes to --output.
"""

import argparse
from dataclasses import replace

import open_clip
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from frozenseg.checkpoints.state_dict import read_state
from frozenseg.commands.number_arguments import check_least
from frozenseg.encoders.clip import build_clip_model
from frozenseg.errors import UserError
from frozenseg.small_world.commands import training_arguments
from frozenseg.small_world.pretraining import loop
from frozenseg.small_world.pretraining.clip import ClipTask, prepare

NAME = "frozenseg_small"
MOSAIC_BATCH = 24  # scenes per step, each with several windows
MEAN = [255 * value for value in OPENAI_DATASET_MEAN]
STD = [255 * value for value in OPENAI_DATASET_STD]


def main(argv: list[str]) -> int | None:
    """Train on images, then on mosaics, and print the scores of both."""
    arguments = _parser().parse_args(argv)
    if not 0 <= arguments.easy_share <= 1:
        raise UserError(f"--easy-share {arguments.easy_share}: must lie in 0-1")
    check_least(arguments, mosaic_steps=0)
    config, run = training_arguments.settings_from(
        arguments, weight_decay=0.1, of_task=("easy_share",)
    )
    model = build_clip_model(NAME, quick_gelu=False)
    steps, resume = arguments.mosaic_steps, arguments.resume
    images = replace(run, folder=run.folder / "images") if steps else run
    if not resume:
        loop.check_unused(run.folder)  # fail before the first stage, which takes hours
    if steps and resume and (images.folder / loop.WEIGHTS).is_file():
        loop.check_config(images.folder, config)
        model.load_state_dict(read_state(images.folder / loop.WEIGHTS))
    else:
        prepare(model)
        easy_pairs = int(arguments.easy_share * config.steps) * config.batch
        task = _task(arguments, model, config, easy_pairs=easy_pairs, mosaics=False)
        training_arguments.report(loop.train(task, config, images, resume=resume))
    if steps:
        config = replace(
            config,
            steps=steps,
            batch=MOSAIC_BATCH,
            learning_rate=config.learning_rate / 2,
            seed=config.seed + 1,
            warmup=max(1, min(500, steps // 20)),
        )
        task = _task(arguments, model, config, easy_pairs=0, mosaics=True)
        resume = resume and loop.has_checkpoint(run.folder)
        training_arguments.report(loop.train(task, config, run, resume=resume))
    return None


def _task(
    arguments: argparse.Namespace,
    model: open_clip.CLIP,
    config: loop.PretrainingConfig,
    *,
    easy_pairs: int,
    mosaics: bool,
) -> ClipTask:
    return ClipTask(
        model=model,
        seed=config.seed,
        side=model.visual.image_size,
        easy_pairs=easy_pairs,
        mosaics=mosaics,
        mean=MEAN,
        std=STD,
        test_images=arguments.test_samples,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg train_small_clip", description=__doc__)
    training_arguments.add_run_arguments(parser, steps=1800, batch=96, tests=1000)
    easy = "share of steps on images of one thing, captioned by its noun (default: %(default)s)"
    parser.add_argument("--easy-share", type=float, default=0.5, help=easy)
    mosaics = "further steps, on mosaics, at half the learning rate (default: %(default)s; 0: none)"
    parser.add_argument("--mosaic-steps", type=int, default=900, help=mosaics)
    return parser
