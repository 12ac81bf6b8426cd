"""Measure time and memory of one image or one training step, stage by stage, beside baselines.

Without options, the published setting is measured (ConvNeXt-L, SAM ViT-B, 250 queries, 800 x 1199,
150 classes with 403 names). Weights, image and text vectors are made up, because time and memory do
not depend on them. The baselines run in turn with the model: segment-anything's own encoder and
open_clip's own trunk, in a separate process, and a large matrix product and a large convolution.
"whole" is the time from the image's file to the results; scoring, and post-processing for each task
separately, are timed in addition to it. Memory is that of the process on a CPU, and what PyTorch
has allocated on CUDA.
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode

from frozenseg.build.device import build_device, build_precision
from frozenseg.build.families import find_family
from frozenseg.commands.number_arguments import check_least
from frozenseg.commands.output_argument import output_file, output_picture
from frozenseg.config import load_config
from frozenseg.devtools.speed.baselines import (
    encoder_baselines,
    encoder_setting,
    machine_baselines,
)
from frozenseg.devtools.speed.prediction import WHOLE, prediction_times
from frozenseg.devtools.speed.report import draw_bars, draw_growth, growth, machine, summary, table
from frozenseg.devtools.speed.setting import Setting
from frozenseg.devtools.speed.training import training_times
from frozenseg.devtools.tiny import TINY
from frozenseg.errors import UserError
from frozenseg.files import write_json
from frozenseg.runtime.precision import CHOICES, Precision

SWEEPS: dict[str, tuple[str, tuple[float, ...], tuple[float, ...]]] = {
    # the unit of the work, its values, and its values with --tiny
    "vocabulary": ("classes of one name", (20, 150, 403, 847, 1203), (20, 60)),
    "size": ("megapixels", (0.25, 0.5, 1, 2, 4, 8), (0.005, 0.02)),
    "queries": ("queries", (50, 100, 250, 500, 1000), (10, 20)),
}

STRIDE = 32  # of the last stage of CLIP's trunk


def main(argv: list[str]) -> int | None:
    """Time one image, one training step or a sweep, and print and write the report."""
    arguments = _parser().parse_intermixed_args(argv)
    _check(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    report = _sweep(arguments) if arguments.sweep else _single(arguments)
    if arguments.json:
        write_json(arguments.json, report, indent=1)
    return None


def _single(arguments: argparse.Namespace) -> dict[str, Any]:
    setting = Setting(arguments.size, arguments.classes, arguments.names)
    cfg = _config(arguments, setting.size)
    precision = build_precision(cfg, build_device(cfg))
    report = _described(arguments, cfg, setting, precision)
    with encoder_baselines(encoder_setting(cfg, setting, precision)) as encoders:
        baselines = [*encoders, *machine_baselines(precision, small=arguments.tiny)]
        if arguments.training:
            times = training_times(
                cfg, setting, batch=arguments.batch, baselines=baselines, repeats=arguments.repeats
            )
            report["images_per_second"] = round(arguments.batch / times.median(WHOLE), 4)
        else:
            times = prediction_times(
                cfg,
                setting,
                baselines=baselines,
                repeats=arguments.repeats,
                beside_eager=arguments.beside_eager,
            )
    report |= summary(times, baselines)
    _print(report)
    if arguments.chart:
        draw_bars(report, arguments.chart, _title(report))
    return report


def _sweep(arguments: argparse.Namespace) -> dict[str, Any]:
    unit, values, tiny = SWEEPS[arguments.sweep]
    points: list[dict[str, Any]] = []
    report: dict[str, Any] = {}
    for value in tiny if arguments.tiny else values:
        setting = Setting(arguments.size, arguments.classes, arguments.names)
        options = []
        if arguments.sweep == "vocabulary":
            setting = Setting(arguments.size, int(value), int(value))
        elif arguments.sweep == "size":  # an aspect ratio of 2 (height) to 3 (width)
            height = round((value * 1e6 * 2 / 3) ** 0.5)
            setting = Setting((height, height * 3 // 2), arguments.classes, arguments.names)
        else:
            options = ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", str(int(value))]
        cfg = _config(arguments, setting.size, options)
        precision = build_precision(cfg, build_device(cfg))
        baselines = machine_baselines(precision, small=arguments.tiny)
        times = prediction_times(cfg, setting, baselines=baselines, repeats=arguments.repeats)
        report = report or _described(arguments, cfg, setting, precision)
        points.append({"work": value, "size": list(setting.size), **summary(times, baselines)})
        whole, memory = times.median(WHOLE), points[-1]["memory"]
        print(f"{value:g} {unit}: {whole:.3f} s, {memory['above_gb']:.3f} GB above the model")
    if arguments.sweep == "size":
        del report["size"]  # each point has its own
    report |= {"work": unit, "points": points, "growth": growth(points)}
    print("growth as a power of the work, from the first value to the last (1: linear)")
    for name, power in report["growth"].items():
        print(f"  {name:36s} {power:6.2f}")
    if arguments.chart:
        draw_growth(points, arguments.chart, unit, _title(report))
    return report


def _config(
    arguments: argparse.Namespace, size: tuple[int, int], more: Sequence[str] = ()
) -> CfgNode:
    """Make the configuration, in which the network sees the image at its original size."""
    options = [*(TINY if arguments.tiny else []), "SEED", "0", "MODEL.DEVICE", arguments.device]
    options += ["MODEL.ALLOW_RANDOM_WEIGHTS", "True"]
    if arguments.queries is not None:
        options += ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", str(arguments.queries)]
    options += ["INPUT.MIN_SIZE_TEST", str(min(size)), "INPUT.MAX_SIZE_TEST", str(max(size))]
    if arguments.training:
        options += ["SOLVER.AMP.ENABLED", str(arguments.precision == "auto")]
    options += ["MODEL.PRECISION", arguments.precision, "MODEL.COMPILE", str(arguments.compile)]
    return load_config(arguments.config_file, [*options, *more, *arguments.options])


def _described(
    arguments: argparse.Namespace, cfg: CfgNode, setting: Setting, precision: Precision
) -> dict[str, Any]:
    model = cfg.MODEL
    encoders = " + ".join(f"{part} {name}" for part, name in find_family(cfg).encoders(cfg).items())
    return {
        "what": "training step" if arguments.training else "prediction",
        "model": f"{model.META_ARCHITECTURE}, {encoders}",
        **machine(precision.device),
        "precision": precision.name,
        "compiled": bool(model.COMPILE),
        "size": list(setting.size),
        "batch": arguments.batch,
        "classes": setting.classes,
        "names": setting.names,
        "queries": model.MASK_FORMER.NUM_OBJECT_QUERIES,
        "repeats": arguments.repeats,
    }


def _print(report: dict[str, Any]) -> None:
    for key in ("what", "model", "device", "threads", "torch", "precision", "compiled"):
        print(f"{key:12s} {report[key]}")
    height, width = report["size"]
    counts = f"{report['classes']} classes, {report['names']} names, {report['queries']} queries"
    print(f"{'setting':12s} {height} x {width}, batch {report['batch']}, {counts}\n")
    print(table(report))


def _title(report: dict[str, Any]) -> str:
    size = [" x ".join(map(str, report["size"]))] if "size" in report else []
    return ", ".join([report["what"], *size, report["precision"], report["device"]])


def _check(arguments: argparse.Namespace) -> None:
    """Set defaults that depend on other arguments, and refuse arguments that exclude each other."""
    tiny, training, sweep = arguments.tiny, arguments.training, arguments.sweep
    if sweep:
        swept = ("classes", "names") if sweep == "vocabulary" else (sweep,)
        _refuse(arguments, f"--sweep {sweep}", "beside_eager", *swept)
    default = ("64x64" if tiny else "1024x1024") if training else "64x96" if tiny else "800x1199"
    arguments.size = _size(arguments.size or default)
    if max(arguments.size) <= STRIDE:  # with one cell, groups of channels have no variance
        height, width = arguments.size
        raise UserError(f"--size {height}x{width}: one side must be longer than {STRIDE} pixels")
    if training and any(side % STRIDE for side in arguments.size):
        raise UserError(f"--size: multiples of {STRIDE} are needed with --training")
    if arguments.classes is None:
        arguments.classes = 150
    if arguments.names is None:
        arguments.names = -(-arguments.classes * 403 // 150)
    check_least(arguments, classes=1, queries=1, batch=1, repeats=1, threads=0)
    if arguments.names < arguments.classes:
        raise UserError(f"--names {arguments.names}: each of {arguments.classes} classes needs one")
    if training and arguments.precision in ("bf16", "fp16"):
        raise UserError("--precision: must be auto (mixed precision) or fp32 with --training")
    if training:
        _refuse(arguments, "--training", "sweep", "beside_eager", "compile")
    elif arguments.batch > 1:
        raise UserError("--batch: works only with --training; otherwise one image is timed")


def _refuse(arguments: argparse.Namespace, given: str, *others: str) -> None:
    for name in others:
        if getattr(arguments, name) not in (None, False):
            raise UserError(f"{given}: cannot be combined with --{name.replace('_', '-')}")


def _size(text: str) -> tuple[int, int]:
    sides = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if sides is None:
        raise UserError(f"--size {text}: HEIGHTxWIDTH in pixels was expected, e.g. 800x1199")
    return int(sides[1]), int(sides[2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", "--config", help="YAML file (default: the published ConvNeXt-L model)")
    add("--size", help="HEIGHTxWIDTH (default: 800x1199, with --training 1024x1024)")
    add("--classes", type=int, help="number of classes (default: 150)")
    add(
        "--names",
        type=int,
        help="total number of names of all classes (default: 403 for 150 classes)",
    )
    add("--queries", type=int, help="number of queries (default: that of the configuration)")
    add("--threads", type=int, default=0, help="CPU threads (default: 0, PyTorch's choice)")
    add("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    add("--precision", choices=CHOICES, default="fp32", help="precision (default: %(default)s)")
    add("--compile", action="store_true", help="compile the stages of the model")
    eager = "also time the same model in float32 and not compiled, in turn with this one"
    add("--beside-eager", action="store_true", help=eager)
    add("--training", action="store_true", help="time a training step instead of an image")
    add("--batch", type=int, default=1, help="images in a training step (default: %(default)s)")
    add("--repeats", type=int, default=3, help="runs after a warm-up (default: %(default)s)")
    add("--sweep", choices=tuple(SWEEPS), help="vary this, and measure how time and memory grow")
    add("--tiny", action="store_true", help="use a tiny model, to try the program")
    add("--json", type=output_file, help="write the numbers to this file")
    add("--chart", type=output_picture, metavar="PNG", help="draw the numbers")
    add("options", nargs="*", metavar="KEY VALUE", help="settings that override the YAML file")
    return parser
