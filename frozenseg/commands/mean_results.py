"""Average the scores of folds that were evaluated one by one, from their results.json files."""

import argparse
from pathlib import Path

from frozenseg.commands.output_argument import output_file, refuse_input
from frozenseg.errors import UserError
from frozenseg.evaluation.means import family_means
from frozenseg.evaluation.results_file import read_results, summary_lines
from frozenseg.evaluation.tasks import Summary
from frozenseg.files import user_path, write_json


def main(argv: list[str]) -> int | None:
    """Print the scores in the files, and their means over folds."""
    arguments = _parser().parse_args(argv)
    refuse_input(arguments.json, arguments.results)
    summaries = _summaries(arguments.results)
    means = family_means(summaries)
    if not means:
        raise UserError(
            f"nothing to average: no two folds of the same benchmark among {', '.join(summaries)}; "
            "give the results of several folds"
        )
    try:  # the file is written first: printing fails if its reader, such as `head`, has ended
        if arguments.json is not None:
            write_json(arguments.json, means, indent=1)
    finally:
        for name, summary in (summaries | means).items():
            print("\n".join([name, *summary_lines(summary)]))
    return None


def _summaries(paths: list[Path]) -> dict[str, Summary]:
    """Return the headline numbers of every data set in all files; a set may occur only once."""
    summaries: dict[str, Summary] = {}
    for path in paths:
        rows = {name: stored.summary for name, stored in read_results(path).items()}
        if twice := sorted(rows.keys() & summaries.keys()):
            raise UserError(
                f"{path}: holds {twice[0]}, which another file holds too; give each set once "
                "(frozenseg compare shows several runs on one set)"
            )
        summaries |= rows
    return summaries


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg mean_results", description=__doc__)
    parser.add_argument("results", nargs="+", type=user_path, metavar="results.json")
    parser.add_argument(
        "--json", type=output_file, metavar="OUT", help="also write the means as JSON"
    )
    return parser
