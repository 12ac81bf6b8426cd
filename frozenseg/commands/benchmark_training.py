"""Time one training step (forward, losses, backward, optimiser) and its memory, on made-up images.

Without options: ConvNeXt-L + SAM ViT-B at 1024 x 1024, 4 images, on a CUDA device; weights are
random, which changes neither time nor memory.
"""

import argparse
import logging
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode

from frozenseg.build import build_device, build_frozenseg_model
from frozenseg.commands.training import training_criterion, training_state
from frozenseg.config import load_config
from frozenseg.data.dataset import Sample
from frozenseg.data.records import Record
from frozenseg.engine.logger import memory_mib
from frozenseg.engine.objective import MaskObjective
from frozenseg.engine.state import TrainingState
from frozenseg.engine.trainer import step_totals, training_step
from frozenseg.errors import UserError
from frozenseg.files import write_json
from frozenseg.structures import Targets, TextEmbeddings

logger = logging.getLogger(__name__)

OBJECTS = 12  # of each image; COCO panoptic has 11 on average
TINY = (
    "MODEL.SAM_NAME tiny MODEL.FROZEN_SEG.CLIP_MODEL_NAME frozenseg_tiny "
    "MODEL.FROZEN_SEG.EMBED_DIM 32 MODEL.FROZEN_SEG.CLIP_PRETRAINED_WEIGHTS none "
    "MODEL.SEM_SEG_HEAD.CONVS_DIM 32 MODEL.SEM_SEG_HEAD.MASK_DIM 32 "
    "MODEL.MASK_FORMER.HIDDEN_DIM 32 MODEL.MASK_FORMER.NUM_OBJECT_QUERIES 20"
).split()


@dataclass(frozen=True)
class Timing:
    """seconds: median of one step. memory_mib: the most of the GPU, or of the process on a CPU."""

    seconds: float
    memory_mib: float


def main(argv: list[str]) -> int | None:
    arguments = _parser().parse_args(argv)
    _check(arguments)
    options = [*(TINY if arguments.tiny else []), "MODEL.DEVICE", arguments.device, "SEED", "0"]
    cfg = load_config(arguments.config_file, [*options, *arguments.options])
    timing = measure(cfg, batch=arguments.batch, size=arguments.size, steps=arguments.steps)
    device = build_device(cfg)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    report = {
        "model": f"{cfg.MODEL.FROZEN_SEG.CLIP_MODEL_NAME} + SAM {cfg.MODEL.SAM_NAME}",
        "device": name or device.type,
        "torch": torch.__version__,
        "batch": arguments.batch,
        "size": arguments.size,
        "seconds_per_step": round(timing.seconds, 4),
        "images_per_second": round(arguments.batch / timing.seconds, 3),
        "peak_memory_mib": round(timing.memory_mib),
    }
    for key, value in report.items():
        print(f"{key:20s} {value}")
    if arguments.json:
        write_json(arguments.json, report, indent=1)
    return None


def measure(cfg: CfgNode, *, batch: int, size: int, steps: int) -> Timing:
    """Median over `steps` steps, after two that warm up."""
    model = build_frozenseg_model(cfg).to(build_device(cfg)).train()
    state = training_state(cfg, model)
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    generator = torch.Generator().manual_seed(0)
    weight = F.normalize(torch.randn(classes, model.clip.embed_dim, generator=generator), dim=-1)
    text = TextEmbeddings(weight, torch.arange(classes), torch.ones(classes, dtype=torch.bool))
    objective = MaskObjective(
        criterion=training_criterion(cfg, classes),
        text=text.to(model.device),
        num_queries=cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES,
        size_divisor=model.size_divisor,
        seed=0,
    )
    samples = [made_up_sample(size, classes, generator) for _ in range(batch)]
    times = [_timed_step(cfg, state, objective, samples) for _ in range(2 + steps)]
    return Timing(statistics.median(times[2:]), memory_mib())


def _timed_step(
    cfg: CfgNode, state: TrainingState, objective: MaskObjective, samples: list[Sample]
) -> float:
    start = time.perf_counter()
    totals, _ = step_totals(objective, [samples], False)
    # The losses arrive as numbers, so the device has nothing left to do when this returns, but for
    # the optimiser: its turn is waited for.
    training_step(
        state,
        state.model,
        objective,
        [samples],
        totals,
        rate=cfg.SOLVER.BASE_LR,
        clip_norm=cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE,
    )
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def made_up_sample(size: int, classes: int, generator: torch.Generator) -> Sample:
    """Noise with rectangular objects."""
    edges = torch.randint(0, size, (OBJECTS, 4), generator=generator)
    top, left, bottom, right = (edges[:, i, None, None] for i in range(4))
    rows, columns = torch.arange(size)[:, None], torch.arange(size)
    masks = (rows >= torch.minimum(top, bottom)) & (rows <= torch.maximum(top, bottom))
    masks = masks & (columns >= torch.minimum(left, right))
    masks = masks & (columns <= torch.maximum(left, right))
    return Sample(
        image=torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator),
        height=size,
        width=size,
        record=Record("made up", "made up", size, size, classes),
        targets=Targets(torch.randint(0, classes, (OBJECTS,), generator=generator), masks),
    )


def _check(arguments: argparse.Namespace) -> None:
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "the full-size step needs a CUDA device with about 80 GB and this PyTorch finds none; "
            "to try the program on a CPU: --device cpu --size 64 --batch 2 --tiny"
        )
    if min(arguments.batch, arguments.steps) < 1 or arguments.size < 32 or arguments.size % 32:
        raise UserError("--batch and --steps must be at least 1, --size a multiple of 32")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark_training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", "--config", help="model and recipe (default: the published ones)")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    add("--batch", type=int, default=4, help="images (default: %(default)s)")
    add("--size", type=int, default=1024, help="side in pixels (default: %(default)s)")
    add("--steps", type=int, default=10, help="timed steps (default: %(default)s)")
    add("--tiny", action="store_true", help="a tiny model instead, to try the program")
    add("--json", type=Path, help="write the numbers to this file")
    add("options", nargs="*", metavar="KEY VALUE", help="settings over those of the YAML file")
    return parser
