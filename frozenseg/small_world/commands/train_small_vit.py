"""Train a small ViT on pictures of the small world without any names; writes weights.safetensors.

moco: contrastive learning as in MoCo v3. dino: self-distillation as in DINO.
"""

import argparse

from frozenseg.small_world.commands import training_arguments
from frozenseg.small_world.pretraining.loop import train
from frozenseg.small_world.pretraining.without_names import METHODS, make_task


def main(argv: list[str]) -> int | None:
    """Train, and print the scores."""
    arguments = _parser().parse_args(argv)
    config, run = training_arguments.settings_from(arguments, weight_decay=0.1, of_task=("method",))
    task = make_task(
        arguments.method,
        seed=config.seed,
        batch=config.batch,
        test_images=arguments.test_samples,
    )
    training_arguments.report(train(task, config, run, resume=arguments.resume))
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg train_small_vit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--method", choices=list(METHODS), required=True)
    training_arguments.add_run_arguments(parser, steps=600, batch=64, tests=600)
    parser.set_defaults(precision="fp32")  # bfloat16 is slower with so few channels
    return parser
