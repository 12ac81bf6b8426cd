"""Compare runs: their scores, differing settings, classes whose scores changed, and curves.

A run is given by its OUTPUT_DIR or by its results.json. All runs are compared with the first.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from frozenseg.build.past_run import read_runs, run_files
from frozenseg.commands.output_argument import output_file, output_picture, refuse_input
from frozenseg.data.benchmarks.short_names import short_names
from frozenseg.engine.curves import draw_curves
from frozenseg.errors import UserError
from frozenseg.evaluation.comparison import (
    PastRun,
    change_lines,
    class_changes,
    data_sets,
    differing_notes,
    differing_settings,
    score_cell,
    scores,
    setting_cell,
    table,
)
from frozenseg.files import user_path, write_json


def main(argv: list[str]) -> int | None:
    """Print the comparison, and write it as JSON and its curves as a picture if asked to."""
    arguments = _parser().parse_args(argv)
    if arguments.classes < 0:
        raise UserError(f"--classes {arguments.classes}: give 0 or more")
    refuse_input(arguments.json, (file for path in arguments.runs for file in run_files(path)))
    runs = read_runs(arguments.runs)
    report = "\n".join(_report(runs, arguments.classes))
    try:  # the files are written first: printing fails if its reader, such as `head`, has ended
        if arguments.json is not None:
            write_json(arguments.json, _as_json(runs), indent=1)
        if arguments.curves is not None:
            draw_curves({run.label: run.metrics for run in runs}, arguments.curves)
    finally:
        print(report)
    return None


def _report(runs: Sequence[PastRun], most: int) -> list[str]:
    labels, lines = [run.label for run in runs], []
    sets = short_names(data_sets(runs))
    for name, short in sets.items():
        lines += [*table(short, labels, scores(runs, name), score_cell), ""]
    for name, short in sets.items():
        lines += _class_lines(runs, name, short, most)
    if settings := differing_settings(runs):
        lines += [*table("settings that differ", labels, settings, setting_cell), ""]
    for name, short in sets.items():
        if notes := differing_notes(runs, name):
            lines += [*table(f"{short} was scored with", labels, notes, setting_cell), ""]
        if any(key.startswith("data ") for key in notes):
            lines += [f"the annotations of {short} differ, so its scores are not comparable", ""]
    return lines[:-1]


def _class_lines(runs: Sequence[PastRun], name: str, short: str, most: int) -> list[str]:
    first, *others = runs
    lines = []
    for run in others:
        if name in first.evaluations and name in run.evaluations:
            changes = class_changes(first.evaluations[name], run.evaluations[name])
            if changed := [*change_lines(changes, most)]:
                lines += [f"classes of {short}, {run.label} beside {first.label}", *changed, ""]
    return lines


def _as_json(runs: Sequence[PastRun]) -> dict[str, Any]:
    first, *others = runs
    sets = data_sets(runs)
    return {
        "runs": [run.label for run in runs],
        "scores": {name: scores(runs, name) for name in sets},
        "settings": differing_settings(runs),
        "provenance": {name: differing_notes(runs, name) for name in sets},
        "classes": {
            run.label: {
                name: {
                    metric: {row.name: [row.before, row.after] for row in rows}
                    for metric, rows in class_changes(
                        first.evaluations[name], run.evaluations[name]
                    ).items()
                }
                for name in sets
                if name in first.evaluations and name in run.evaluations
            }
            for run in others
        },
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=user_path, metavar="RUN", help="an OUTPUT_DIR or a results.json")
    add(
        "--classes",
        type=int,
        default=5,
        metavar="N",
        help="show the N classes with the largest gains, and the N with the largest losses "
        "(default: %(default)s)",
    )
    add("--curves", type=output_picture, metavar="OUT.png", help="draw losses and scores")
    add("--json", type=output_file, metavar="OUT", help="also write the whole comparison as JSON")
    return parser
