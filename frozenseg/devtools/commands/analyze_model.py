"""Count a model's frozen and trained parameters, and its floating point operations, by stage."""

import argparse
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from frozenseg.build.models import build_model
from frozenseg.commands.number_arguments import check_least
from frozenseg.commands.output_argument import output_file
from frozenseg.config import load_config
from frozenseg.devtools.speed.clock import Place, replaced, stage_places
from frozenseg.files import write_json
from frozenseg.models.base import SegmentationModel
from frozenseg.runtime.linear import flop_formulas
from frozenseg.structures import ImageBatch, TextEmbeddings


def main(argv: list[str]) -> None:
    """Print the table of parameters, and of operations with --flops."""
    parser = argparse.ArgumentParser(prog="frozenseg analyze_model", description=__doc__)
    parser.add_argument("--config-file", help="YAML file; default: the published ConvNeXt-L model")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(800, 1199),
        metavar=("H", "W"),
        help="size of the image in pixels (default: 800 1199)",
    )
    parser.add_argument(
        "--classes", type=int, default=150, help="number of classes for --flops (default: 150)"
    )
    parser.add_argument("--flops", action="store_true", help="count floating point operations too")
    parser.add_argument("--json", type=output_file, help="write the numbers to this file")
    parser.add_argument(
        "options", nargs="*", metavar="KEY VALUE", help="settings that override the YAML file"
    )
    arguments = parser.parse_intermixed_args(argv)
    check_least(arguments, size=1, classes=1)
    model = build_model(load_config(arguments.config_file, arguments.options)).eval()
    parameters = count_parameters(model)
    print(f"{'parameters':32s} {'frozen':>15s} {'trained':>15s}")
    for stage, (frozen, trained) in parameters.items():
        print(f"{stage:32s} {frozen:15,d} {trained:15,d}")
    totals = [sum(counts[kind] for counts in parameters.values()) for kind in (0, 1)]
    print(f"{'total':32s} {totals[0]:15,d} {totals[1]:15,d}")
    numbers: dict[str, Any] = {
        "parameters": {stage: list(counts) for stage, counts in parameters.items()},
        "frozen": totals[0],
        "trained": totals[1],
    }
    if arguments.flops:
        numbers["flops"] = flops = count_flops(model, tuple(arguments.size), arguments.classes)
        print(f"\n{'FLOPs, one image ' + 'x'.join(map(str, arguments.size)):32s} {'GFLOP':>15s}")
        for stage, count in flops.items():
            print(f"{stage:32s} {count / 1e9:15,.1f}")
    if arguments.json:
        write_json(arguments.json, numbers, indent=1)


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Count parameters as {stage: (frozen, trained)}; shared parameters count once."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, parameter in model.named_parameters():
        counts[_stage(name)][parameter.requires_grad] += parameter.numel()
    return {stage: (frozen, trained) for stage, (frozen, trained) in counts.items()}


def _stage(name: str) -> str:
    if name.startswith("clip."):
        return "CLIP image tower" if ".visual." in name else "CLIP text tower"
    if name.startswith("sam.model.image_encoder"):
        return "SAM image encoder"
    if name.startswith("sam."):
        return "SAM prompts and masks"
    return name.split(".")[0].replace("_", " ")


def count_flops(model: SegmentationModel, size: tuple[int, int], classes: int) -> dict[str, int]:
    """Count the floating point operations of one prediction by stage; multiply-adds count as two.

    PyTorch counts convolutions, matrix products and attention while the model runs. Sampling,
    normalisation and activations are not counted; they are a few per cent.
    """
    images = ImageBatch.collate([torch.zeros(3, *size)], model.size_divisor).to(model.device)
    text = TextEmbeddings(
        weight=torch.zeros(classes, model.text_encoder.embed_dim),
        class_index=torch.arange(classes),
        seen=torch.zeros(classes, dtype=torch.bool),
    ).to(model.device)
    model.requires_grad_(False)  # the counter would also track gradients
    counts: dict[str, int] = {}

    def counted(place: Place, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            before = counter.get_total_flops()
            result = function(*arguments, **options)
            counts[place.name] = counts.get(place.name, 0) + counter.get_total_flops() - before
            return result

        return run

    counter = FlopCounterMode(display=False, custom_mapping=flop_formulas())
    with counter, torch.no_grad():
        with replaced(stage_places(model), counted):
            model.predict(images, text)
    total = counter.get_total_flops()
    return counts | {"other": total - sum(counts.values()), "total": total}
