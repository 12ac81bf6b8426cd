"""Find out with linear probes of edges what SAM's feature map holds that CLIP's levels lack.

Each probe decides by a linear function of frozen features whether a cell of 4 x 4 pixels has an
edge. Like the decoder, it is fitted to scenes in which only seen classes are annotated. It is
tested on other scenes.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from tqdm import tqdm

import frozenseg
from frozenseg.commands.number_arguments import check_least
from frozenseg.commands.output_argument import output_file
from frozenseg.errors import UserError
from frozenseg.files import write_json
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.small_world.experiment.probes import Cells, cells_of, choices_of, probe
from frozenseg.small_world.scene import make_scene
from frozenseg.text.vocabulary import Vocabulary

SEED = 21  # of scenes that no training has used


def main(argv: list[str]) -> int | None:
    """Fit and test all probes, and print their table."""
    arguments = _parser().parse_args(argv)
    check_least(arguments, train=1, test=1)
    with frozenseg.load(arguments.config_file, device=arguments.device) as segmenter:
        model = segmenter.pipeline.model
        if not isinstance(model, FrozenSeg) or model.sam is None:
            raise UserError(f"{arguments.config_file}: has no SAM to compare with CLIP")
        sides = (segmenter.short_side, segmenter.long_side)
        cells = partial(cells_of, model, sides=sides)
        training = _scenes(partial(cells, annotated=True), "train", arguments.train)
        test = _scenes(partial(cells, annotated=False), "val", arguments.test)
    choices = choices_of(list(test[0].maps))
    found = probe(training, test, choices)
    rows = [{"maps": maps, **asdict(of)} for maps, of in zip(choices, found, strict=True)]
    print(_table(rows))
    if arguments.json is not None:
        write_json(arguments.json, rows, indent=1)
    return None


def _scenes(cells: Callable[..., Cells], stream: str, count: int) -> list[Cells]:
    seen = frozenset(Vocabulary.packaged("small_world_seen").labels)
    numbers = tqdm(range(count), desc=stream, unit="scene", disable=None)
    return [cells(make_scene(SEED, stream, number), seen) for number in numbers]


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| maps | precision | recall, seen | recall, unseen |", "| --- | --- | --- | --- |"]
    for row in rows:
        cells = (f"{row[key]:.1f}" for key in ("precision", "recall_seen", "recall_unseen"))
        lines.append(f"| {' + '.join(row['maps'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg small_world_probe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", default="small", help="model (default: %(default)s)")
    add("--device", default="cpu", help="device (default: %(default)s)")
    add("--train", type=int, default=150, help="scenes to fit to (default: %(default)s)")
    add("--test", type=int, default=100, help="scenes to test on (default: %(default)s)")
    add("--json", type=output_file, help="write all numbers to this file")
    return parser
