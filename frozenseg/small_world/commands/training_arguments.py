"""Arguments that the commands for training the small encoders share."""

import argparse
import os

import torch

from frozenseg.commands.number_arguments import check_least
from frozenseg.errors import UserError
from frozenseg.files import user_path
from frozenseg.small_world.pretraining.loop import PretrainingConfig, RunOptions


def add_run_arguments(
    parser: argparse.ArgumentParser, *, steps: int, batch: int, tests: int, of: str = "images"
) -> None:
    """Add the shared arguments to a parser, with the defaults of one command.

    tests: how many samples the encoder is tested on. of: what samples are called, in the plural.
    """
    add = parser.add_argument
    add("--output", type=user_path, required=True, help="folder of weights, checkpoint and metrics")
    add("--resume", action="store_true", help="continue from the checkpoint in --output")
    add("--steps", type=int, default=steps, help="training steps (default: %(default)s)")
    add("--batch", type=int, default=batch, help=f"{of} per step (default: %(default)s)")
    add("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    add("--learning-rate", type=float, default=1e-3, help="learning rate (default: %(default)s)")
    precisions = ("auto", "fp32", "bf16")
    precision_help = "auto: bf16 if natively supported, otherwise fp32 (default: %(default)s)"
    add("--precision", choices=precisions, default="auto", help=precision_help)
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cuda or cpu (default: %(default)s)",
    )
    workers = min(os.cpu_count() or 1, 16)
    add(
        "--workers",
        type=int,
        default=workers,
        help="processes that make scenes (default: %(default)s)",
    )
    option = f"--test-{of}"
    add(
        option,
        dest="test_samples",
        type=int,
        default=tests,
        help=f"{of} to test on (default: {tests})",
    )
    parser.set_defaults(test_option=option)
    add("--save-period", type=int, default=1000, help="steps between checkpoints (default: 1000)")


def settings_from(
    arguments: argparse.Namespace, *, weight_decay: float, of_task: tuple[str, ...] = ()
) -> tuple[PretrainingConfig, RunOptions]:
    """Return both kinds of settings, and seed torch, because the caller builds the model next.

    of_task: the arguments that only this command has and that affect the result.
    """
    config = config_from(arguments, weight_decay=weight_decay, of_task=of_task)
    torch.manual_seed(config.seed)
    return config, run_from(arguments)


def config_from(
    arguments: argparse.Namespace, *, weight_decay: float, of_task: tuple[str, ...] = ()
) -> PretrainingConfig:
    """Return the settings that decide the result."""
    if arguments.precision == "auto":
        arguments.precision = "bf16" if _has_bfloat16() else "fp32"
    return PretrainingConfig(
        steps=arguments.steps,
        batch=arguments.batch,
        seed=arguments.seed,
        learning_rate=arguments.learning_rate,
        weight_decay=weight_decay,
        warmup=max(1, min(500, arguments.steps // 20)),
        precision=arguments.precision,
        task={name: getattr(arguments, name) for name in of_task},
    )


def run_from(arguments: argparse.Namespace) -> RunOptions:
    """Return the settings of where and how the training runs, which do not affect the result.

    Raises `UserError` for numbers out of range and for a device that cannot be used.
    """
    check_least(arguments, workers=0, save_period=1)
    if arguments.test_samples < 1:
        raise UserError(f"{arguments.test_option} {arguments.test_samples}: must be at least 1")
    try:
        device = torch.device(arguments.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {arguments.device}: {str(error).splitlines()[0]}") from None
    return RunOptions(
        folder=arguments.output,
        device=device,
        workers=arguments.workers,
        save_period=arguments.save_period,
    )


def _has_bfloat16() -> bool:
    """Whether the default device multiplies in bfloat16 without emulating it."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def report(scores: dict[str, float]) -> None:
    """Print the scores of an evaluation."""
    for name, value in scores.items():
        print(f"{name:28s} {value:6.2f}")
