"""Arguments that the commands training small encoders share."""

import argparse
import os

import torch

from frozenseg.errors import UserError
from frozenseg.files import user_path
from frozenseg.small_world.pretraining.loop import PretrainingConfig, RunOptions


def add_run_arguments(
    parser: argparse.ArgumentParser,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    test_images: int,
) -> None:
    """Add the shared arguments to a parser, with the defaults of one command."""
    add = parser.add_argument
    add("--output", type=user_path, required=True, help="folder of weights, checkpoint and metrics")
    add("--resume", action="store_true", help="go on after the checkpoint in --output")
    add("--steps", type=int, default=steps, help="default: %(default)s")
    add("--batch", type=int, default=batch, help="images a step (default: %(default)s)")
    add("--seed", type=int, default=0, help="of all chance (default: %(default)s)")
    add("--learning-rate", type=float, default=learning_rate, help="default: %(default)s")
    add(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of the forward pass; auto: what the machine is fast in (default: %(default)s)",
    )
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s")
    add(
        "--workers",
        type=int,
        default=min(os.cpu_count() or 1, 16),
        help="processes that make scenes (default: %(default)s)",
    )
    add("--test-images", type=int, default=test_images, help="default: %(default)s")
    add("--save-period", type=int, default=1000, help="steps (default: %(default)s)")


def config_from(arguments: argparse.Namespace, *, weight_decay: float) -> PretrainingConfig:
    """The arguments that decide the result."""
    fast = "bf16" if _has_bfloat16() else "fp32"
    return PretrainingConfig(
        steps=arguments.steps,
        batch=arguments.batch,
        seed=arguments.seed,
        learning_rate=arguments.learning_rate,
        weight_decay=weight_decay,
        warmup=max(1, min(500, arguments.steps // 20)),
        precision=fast if arguments.precision == "auto" else arguments.precision,
    )


def run_from(arguments: argparse.Namespace) -> RunOptions:
    """The arguments that say where and how the training runs."""
    for name, least in (("workers", 0), ("test_images", 1), ("save_period", 1)):
        if (given := getattr(arguments, name)) < least:
            raise UserError(f"--{name.replace('_', '-')} {given}: must be at least {least}")
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
    """Whether the device that is taken by default multiplies in bfloat16 (not emulated)."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()
