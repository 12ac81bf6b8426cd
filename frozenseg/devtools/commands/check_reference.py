"""Compare our numbers with reference vectors: `frozenseg check_reference PREFIX`.

PREFIX names three files, `.json`, `.npz` and (for a whole model) `.state_dict.json`, as described
in the README of the reference folder. Prints a row `entry  error` for each, then `worst X`; exit
status 1 if an error exceeds 1e-3. Float tensors: max|ours - expected| / max|expected|. Integer
maps, segments and matchings: the share that differs (bound 0.1 %, which is 1e-3 too).
"""

import argparse
import math
from pathlib import Path

from frozenseg.devtools.reference.compare import BOUND, Rows, read_arrays
from frozenseg.devtools.reference.losses import check_losses
from frozenseg.devtools.reference.model import model_rows
from frozenseg.devtools.reference.post_processing import post_processing_rows
from frozenseg.errors import UserError
from frozenseg.files import read_json, user_path


def main(argv: list[str]) -> int:
    """Print the error of each entry, and the largest; exit status 1 if it exceeds the bound."""
    parser = argparse.ArgumentParser(
        prog="frozenseg check_reference",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("prefix", type=user_path, help="e.g. ../shared/reference/convnext_large")
    prefix = parser.parse_args(argv).prefix
    worst = 0.0
    for entry, error in rows(prefix):
        print(f"{entry:24s} {error:.2e}", flush=True)
        worst = max(worst, math.inf if math.isnan(error) else error)  # NaN is the worst of all
    print(f"worst {worst:.2e}")
    return 0 if worst <= BOUND else 1


def rows(prefix: Path) -> Rows:
    """Choose the comparison that fits the content of the JSON."""
    settings = read_json(prefix.with_name(prefix.name + ".json"))
    arrays = read_arrays(prefix.with_name(prefix.name + ".npz"))
    if "losses" in settings:
        return iter(check_losses(prefix))
    if "config" in settings:
        return model_rows(prefix, settings, arrays)
    if "queries" in settings:
        return post_processing_rows(settings, arrays)
    raise UserError(f"{prefix}.json: holds no model, post-processing or losses; copy it again")
