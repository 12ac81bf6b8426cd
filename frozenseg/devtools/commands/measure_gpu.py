"""Run tests, comparisons, timings and trainings on this machine's GPU.

Writes report.md, results.json and the profiler's tables to logs/gpu/CARD, and prints a summary.
Sections are independent: an error is written to the report, and the others still run. Each section
has a time limit, and the report names the parts for which no time was left. All sections together
take at most 8 minutes.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from frozenseg.build.device import build_device
from frozenseg.commands.number_arguments import check_least
from frozenseg.config import load_config
from frozenseg.devtools.gpu import activations, equality, kernel_tests, small_world, speed, training
from frozenseg.devtools.gpu.report import as_json, headlines, markdown
from frozenseg.devtools.gpu.sections import Part, Section, run_section
from frozenseg.devtools.gpu.trial import Trial
from frozenseg.devtools.speed.report import machine
from frozenseg.errors import UserError, nearest
from frozenseg.files import atomic_path, user_path, write_json

SECTIONS = {
    "tests": Section("Tests marked gpu", 80, kernel_tests.PARTS),
    "equality": Section("Equality with the CPU in float32", 70, equality.PARTS),
    "activations": Section("Largest activations in float32", 30, activations.PARTS),
    "speed": Section("Speed of the published model", 140, speed.PARTS),
    "training": Section("Training of the published model", 80, training.PARTS),
    "small_world": Section("The small world", 80, small_world.PARTS),
}
"""The sections in the order in which they run; their limits add up to 480 seconds."""


def main(argv: list[str]) -> int:
    """Measure and write the report; return 1 if a part failed or did not finish."""
    arguments = _parser().parse_args(argv)
    check_least(arguments, limit=1)
    device = build_device(load_config(None, ["MODEL.DEVICE", arguments.device]))
    about = _machine(device)
    folder = arguments.output or Path("logs", "gpu", _folder_name(about["device"]))
    found: dict[str, dict[str, Part]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        trial = Trial(
            device=device,
            tiny=arguments.tiny,
            folder=folder,
            scratch=Path(scratch),
            reference=arguments.reference,
            config_file=arguments.config_file,
        )
        for name in arguments.sections:
            start = time.monotonic()
            print(f"{name} ...", file=sys.stderr, flush=True)
            section = SECTIONS[name]
            limit = arguments.limit or section.limit
            found[name] = run_section(replace(section, limit=limit), trial)
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
            _write(folder, about, found)  # after each section, in case the machine is taken away
    print(headlines(found))
    print(f"written to {folder}")
    failed = any(part.failure for parts in found.values() for part in parts.values())
    return int(failed)


def _write(folder: Path, about: dict[str, Any], found: dict[str, dict[str, Part]]) -> None:
    write_json(folder / "results.json", {"machine": about, "sections": as_json(found)}, indent=1)
    with atomic_path(folder / "report.md") as temporary:
        temporary.write_text(markdown(about, SECTIONS, found), encoding="utf-8")


def _machine(device: torch.device) -> dict[str, Any]:
    about = machine(device) | {"python": sys.version.split()[0], "cores": os.cpu_count()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about["memory"] = f"{properties.total_memory / 1e9:.1f} GB"
        about["capability"] = f"{properties.major}.{properties.minor}"
        about["CUDA of PyTorch"] = torch.version.cuda
    try:
        about["triton"] = __import__("triton").__version__
    except ImportError:
        about["triton"] = "none"
    return about


def _folder_name(device: str) -> str:
    """Turn "cuda: NVIDIA H100 80GB HBM3" into "nvidia-h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower().removeprefix("cuda: ")).strip("-")


def _sections(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise UserError(f"--sections {name}: unknown; {nearest(name, list(SECTIONS))}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg measure_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--device", default="auto", help="as for MODEL.DEVICE (default: %(default)s)")
    add("--tiny", action="store_true", help="use tiny models, to try the program in two minutes")
    add(
        "--sections",
        type=_sections,
        default=list(SECTIONS),
        metavar="A,B",
        help=f"sections to run, from {','.join(SECTIONS)} (default: all)",
    )
    add("--limit", type=float, help="seconds for each section (default: its own limit)")
    add("--output", type=user_path, help="folder of the report (default: logs/gpu/CARD)")
    add(
        "--reference",
        type=user_path,
        default=os.environ.get("FROZENSEG_REFERENCE"),
        help="folder of the reference vectors (default: $FROZENSEG_REFERENCE)",
    )
    add("--config-file", help="model to be timed (default: the published ConvNeXt-L model)")
    return parser
