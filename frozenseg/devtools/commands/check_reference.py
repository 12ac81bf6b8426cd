"""Compare our numbers with reference vectors: `frozenseg check_reference PREFIX`.

PREFIX names three files, `.json`, `.npz` and (for an entire model) `.state_dict.json`, as described
in the README of the reference folder. The command prints a row `entry  error` for each entry, then
`worst X`. The exit status is 1 if an error exceeds 1e-3. Errors are defined as follows:

- float tensors: max|ours - expected| / max|expected|
- integer maps, masks and classes: the share of values that differ (1e-3 is 0.1 %)
- segments and matchings: 0 if they are equal, else 1
- losses: the difference, scaled such that 1e-3 is the tolerance of the reference
"""

import argparse
import math
from pathlib import Path

from frozenseg.build.device import build_device, build_precision
from frozenseg.commands.precision_argument import add_precision
from frozenseg.config import load_config
from frozenseg.devtools.reference.compare import BOUND, Rows
from frozenseg.devtools.reference.losses import check_losses
from frozenseg.devtools.reference.model import model_rows
from frozenseg.devtools.reference.post_processing import post_processing_rows
from frozenseg.errors import UserError
from frozenseg.files import read_arrays, read_json, user_path
from frozenseg.runtime.precision import Precision


def main(argv: list[str]) -> int:
    """Print the error of each entry, then the largest; return 1 if it exceeds the bound."""
    parser = argparse.ArgumentParser(
        prog="frozenseg check_reference",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "prefix",
        type=user_path,
        help="path of the vectors without .json and .npz, e.g. $FROZENSEG_REFERENCE/convnext_large",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="device of an entire model, as for MODEL.DEVICE (default: %(default)s)",
    )
    add_precision(parser)
    arguments = parser.parse_args(argv)
    worst = 0.0
    options = ["MODEL.DEVICE", arguments.device, "MODEL.PRECISION", arguments.precision or "fp32"]
    cfg = load_config(None, options)
    for entry, error in rows(arguments.prefix, build_precision(cfg, build_device(cfg))):
        print(f"{entry:24s} {error:.2e}", flush=True)
        worst = max(worst, math.inf if math.isnan(error) else error)  # NaN is the worst of all
    print(f"worst {worst:.2e}")
    return 0 if worst <= BOUND else 1


def rows(prefix: Path, precision: Precision) -> Rows:
    """Run the comparison that fits the content of the JSON file.

    precision: precision and device of an entire model; the other comparisons do not use it.
    """
    settings = read_json(prefix.with_name(prefix.name + ".json"))
    arrays = read_arrays(prefix.with_name(prefix.name + ".npz"))
    if "losses" in settings:
        return iter(check_losses(prefix))
    if "config" in settings:
        return model_rows(prefix, settings, arrays, precision)
    if "queries" in settings:
        return post_processing_rows(settings, arrays)
    raise UserError(f"{prefix}.json: holds no model, post-processing or losses; copy it again")
