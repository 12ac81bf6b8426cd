"""Compare video results with and without tracks, on clips of the small world, over seeds."""

import argparse
from functools import partial
from typing import Any, get_args

import numpy as np
from tqdm import tqdm

import frozenseg
from frozenseg.commands.number_arguments import check_least
from frozenseg.commands.output_argument import output_file
from frozenseg.errors import UserError
from frozenseg.evaluation.video import VideoQuality
from frozenseg.files import write_json
from frozenseg.predictor import Predictor
from frozenseg.results.following import KEEP_SHARE, follow, tracker_of
from frozenseg.results.selection import THRESHOLD, checked_threshold
from frozenseg.small_world.video import Clip, ClipOptions, Motion, make_clip
from frozenseg.small_world.vocabulary import world_vocabulary

SWITCHES = "identity switches a minute"
SHOWN = ("VPQ", "VPQ 1", "VPQ 6", "VPQ-things", "VPQ-stuff", "STQ", "AQ", "SQ", SWITCHES)


def main(argv: list[str]) -> int | None:
    """Print the mean and the range of each measure over the seeds."""
    arguments = _parser().parse_args(argv)
    check_least(arguments, seeds=0, clips=1, frames=1)
    words = world_vocabulary()
    rows: list[dict[str, Any]] = []
    options = ClipOptions(frames=arguments.frames)
    with frozenseg.load(arguments.config_file, device="cpu") as segmenter:
        for seed in arguments.seeds:
            metric = VideoQuality(
                is_thing=words.is_thing,
                make_tracker=lambda: tracker_of(arguments.threshold),
            )
            kinds = [kind for kind in get_args(Motion) for _ in range(arguments.clips)]
            for number, kind in enumerate(tqdm(kinds, desc=f"seed {seed}", disable=None)):
                clip = make_clip(seed, kind, number % arguments.clips, options)
                add_clip(metric, segmenter, f"{kind}_{number}", clip, arguments)
            rows.append({"seed": seed, **metric.compute()})
            for scores in (rows[-1]["without"], rows[-1]["with tracks"]):
                scores[SWITCHES] = 60 * options.fps * scores["switches"] / scores["frames"]
    print(_table(rows))
    if arguments.json is not None:
        write_json(arguments.json, rows, indent=2)
    return None


def add_clip(
    metric: VideoQuality,
    segmenter: Predictor,
    name: str,
    clip: Clip,
    arguments: argparse.Namespace,
) -> None:
    """Segment the frames of a clip and add them to the metric."""
    words = world_vocabulary()
    keep = KEEP_SHARE * checked_threshold(arguments.threshold)
    truth = {region.id: words.labels.index(region.name) for region in clip.regions}
    segment = partial(segmenter.stream, vocabulary=words, threshold=keep)
    results = follow(segment, clip.images, tracker=None, still=arguments.reuse_still)
    for number, (result, ids) in enumerate(zip(results, clip.ids, strict=True)):
        if isinstance(result, UserError):
            raise result
        metric.update(name, f"{number:06d}", result.regions, ids, truth)


def _table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table: the mean over the seeds, with the lowest and highest value."""
    lines = ["| | without tracks | with tracks |", "| --- | --- | --- |"]
    for name in SHOWN:
        scale = 1 if name == SWITCHES else 100
        cells = []
        for kind in ("without", "with tracks"):
            values = [scale * row[kind][name] for row in rows]
            cells.append(f"{np.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg measure_video", description=__doc__)
    add = parser.add_argument
    add("--config-file", default="small", help="model (default: %(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (default: 0 1 2)")
    add("--clips", type=int, default=2, help="clips of each motion and seed (default: %(default)s)")
    add("--frames", type=int, default=24, help="frames of a clip (default: %(default)s)")
    add("--threshold", type=float, default=THRESHOLD, help="as in the demo (default: %(default)s)")
    add("--reuse-still", type=float, metavar="LEVEL", help="as in the demo")
    add("--json", type=output_file, help="write all measures to this file")
    return parser
