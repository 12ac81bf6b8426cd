"""Time deformable attention beside a loop over levels with grid_sample, forward and backward.

The sampling positions lie within a few cells of each query's own cell, as in a trained model.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from frozenseg.commands.number_arguments import check_least
from frozenseg.commands.output_argument import output_file
from frozenseg.devtools.speed.memory import measure_memory
from frozenseg.errors import UserError
from frozenseg.files import write_json
from frozenseg.models import ms_deform_attn
from frozenseg.models.ms_deform_attn import deformable_attention, reference_points
from frozenseg.models.ms_deform_loop import loop_over_levels
from frozenseg.models.pixel_decoder import DeformableEncoder
from frozenseg.runtime.environment import device_name

SPREAD = 3.0  # standard deviation of the sampling offsets, in cells
Shapes = list[tuple[int, int]]


@dataclass(frozen=True)
class Row:
    """Our operator beside the loop over levels, run in turn.

    what: the operation.
    threads: number of PyTorch's threads.
    ours_s: median time of our operator in seconds.
    loop_s: median time of the loop in seconds.
    ratio: the loop's median time divided by ours.
    ratio_of_best: the same for the shortest runs, which other processes disturb least.
    ours_cpu_s: median processor time of our operator in seconds, summed over all threads.
    loop_cpu_s: the same for the loop.
    ours_gib: peak memory of our operator in GiB, in addition to the memory in use before.
    loop_gib: the same for the loop.
    """

    what: str
    threads: int
    ours_s: float
    loop_s: float
    ratio: float
    ratio_of_best: float
    ours_cpu_s: float
    loop_cpu_s: float
    ours_gib: float
    loop_gib: float


def main(argv: list[str]) -> int | None:
    """Time deformable attention for each number of threads, and print the table."""
    options = _parser().parse_args(argv)
    check_least(options, batch=1, heads=1, channels=1, points=1, threads=1, repeats=1)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is present: leave --device out to time the CPU")
    device = torch.device(options.device)
    shapes = [_shape(text) for text in options.levels]
    measure([(2, 2)] * len(shapes), options, device, 1)  # warms up: libraries are loaded
    report: list[Row] = []
    held = torch.get_num_threads()
    for threads in options.threads if device.type == "cpu" else [held]:
        torch.set_num_threads(threads)
        report += measure(shapes, options, device, threads)
    torch.set_num_threads(held)
    _print(report)
    if options.json:
        name = device_name(device)
        settings = {**vars(options), "json": str(options.json), "device": name}
        settings["torch"] = torch.__version__
        rows = [asdict(row) for row in report]
        write_json(options.json, {"settings": settings, "rows": rows}, indent=1)
    return None


def measure(
    shapes: Shapes, options: argparse.Namespace, device: torch.device, threads: int
) -> list[Row]:
    """Measure both operators, alone and in an encoder layer, on random inputs of these shapes."""
    inputs = make_inputs(shapes, options, device)
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    value, locations, weights = inputs
    grad = torch.randn_like(value.flatten(2))
    dim = options.heads * options.channels
    encoder = DeformableEncoder(
        dim=dim,
        num_layers=1,
        num_levels=len(shapes),
        num_heads=options.heads,
        num_points=options.points,
    ).to(device)
    features = [torch.randn(options.batch, dim, *shape, device=device) for shape in shapes]

    def forward(attention: Callable[..., Tensor]) -> None:
        with torch.no_grad():
            attention(value, shapes, locations, weights)

    def both(attention: Callable[..., Tensor]) -> None:
        torch.autograd.grad(attention(leaves[0], shapes, *leaves[1:]), leaves, grad)

    def layer(attention: Callable[..., Tensor]) -> None:
        ours = ms_deform_attn.deformable_attention
        ms_deform_attn.deformable_attention = attention
        try:
            with torch.no_grad():
                encoder(features)
        finally:
            ms_deform_attn.deformable_attention = ours

    works = {"attention": forward, "attention, forward + backward": both, "encoder layer": layer}
    return [
        compare(what, run, repeats=options.repeats, device=device, threads=threads)
        for what, run in works.items()
    ]


def make_inputs(shapes: Shapes, options: argparse.Namespace, device: torch.device) -> list[Tensor]:
    """Make value, locations and weights; every cell of every level is a query."""
    torch.manual_seed(0)
    cells = sum(height * width for height, width in shapes)
    value = torch.randn(options.batch, cells, options.heads, options.channels)
    layout = (options.batch, cells, options.heads, len(shapes), options.points)
    sizes = torch.tensor([(width, height) for height, width in shapes])[:, None]
    references = reference_points(tuple(shapes), torch.device("cpu"))[:, None, None, None]
    locations = references + SPREAD * torch.randn(*layout, 2) / sizes
    weights = torch.randn(layout).flatten(3).softmax(-1).view(layout)
    return [tensor.to(device) for tensor in (value, locations, weights)]


def compare(
    what: str,
    run: Callable[[Callable[..., Tensor]], None],
    *,
    repeats: int,
    device: torch.device,
    threads: int,
) -> Row:
    """Measure the memory once, then time both in turn, so that a busy machine slows both."""
    ways = (deformable_attention, loop_over_levels)
    peaks = [measure_memory(functools.partial(run, way), device) for way in ways]
    memory = [(peak.peak - peak.held) / 2**30 for peak in peaks]
    wall: tuple[list[float], list[float]] = ([], [])
    cpu: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for i, way in enumerate(ways):
            start, worked = time.perf_counter(), time.process_time()
            run(way)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            wall[i].append(time.perf_counter() - start)
            cpu[i].append(time.process_time() - worked)
    ours, loop = (statistics.median(seconds) for seconds in wall)
    return Row(
        what=what,
        threads=threads,
        ours_s=ours,
        loop_s=loop,
        ratio=loop / ours,
        ratio_of_best=min(wall[1]) / min(wall[0]),
        ours_cpu_s=statistics.median(cpu[0]),
        loop_cpu_s=statistics.median(cpu[1]),
        ours_gib=memory[0],
        loop_gib=memory[1],
    )


def _print(rows: list[Row]) -> None:
    head = f"{'':34}{'threads':>8}{'ours, s':>10}{'loop, s':>10}{'ratio':>8}{'of best':>8}"
    print(f"{head}{'cpu, s':>18}{'GiB':>16}")
    for row in rows:
        times = f"{row.ours_s:10.4f}{row.loop_s:10.4f}{row.ratio:8.2f}{row.ratio_of_best:8.2f}"
        cpu = f"{row.ours_cpu_s:10.4f}{row.loop_cpu_s:8.3f}"
        memory = f"{row.ours_gib:9.3f}{row.loop_gib:7.3f}"
        print(f"{row.what:34}{row.threads:8}{times}{cpu}{memory}")


def _shape(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise UserError(f"--levels {text!r} is not HEIGHTxWIDTH, such as 100x150")
    return int(height), int(width)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg benchmark_deformable", description=__doc__)
    levels = ["25x38", "50x75", "100x150"]
    parser.add_argument(
        "--levels",
        nargs="+",
        default=levels,
        metavar="HxW",
        help="sizes of the levels (%(default)s)",
    )
    parser.add_argument("--batch", type=int, default=1, help="number of images (%(default)s)")
    parser.add_argument("--heads", type=int, default=8, help="attention heads (%(default)s)")
    parser.add_argument("--channels", type=int, default=32, help="channels of a head (%(default)s)")
    parser.add_argument(
        "--points", type=int, default=4, help="points of a head in each level (%(default)s)"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="device (%(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="CPU threads (%(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each (%(default)s)")
    parser.add_argument("--json", type=output_file, metavar="OUT", help="write the figures here")
    return parser
