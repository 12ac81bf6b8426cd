"""Write a run of `frozenseg batch` as files of other tools.

coco: coco.json, with RLE masks and scores. masks: panoptic.json, and a panoptic PNG for each image.
supervision: detections.csv, a line for each segment with its box, as supervision's CSVSink writes.
"""

import argparse
import logging

from frozenseg.errors import one_line
from frozenseg.files import user_path

logger = logging.getLogger(__name__)


def main(argv: list[str]) -> int | None:
    """Write the files of all images that are done."""
    arguments = _parser().parse_args(argv)
    from frozenseg.batch.export import FORMS
    from frozenseg.batch.manifest import Manifest
    from frozenseg.batch.rows import is_done

    run = arguments.run
    manifest = Manifest(run)
    absent = [number for number in manifest.shards if not is_done(run, manifest, number)]
    if absent:
        left = sum(map(manifest.rows_of, absent))
        logger.warning("%s: %d of %d images are not done yet", run, left, manifest.total)
    path = FORMS[arguments.to](run, arguments.output or run)
    print(one_line(f"{path}: {manifest.total} images" if not absent else str(path)))
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg batch export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=user_path, metavar="OUTPUT", help="the output folder of the run")
    add("--to", required=True, choices=("coco", "masks", "supervision"), help="the form")
    add("--output", type=user_path, help="folder of the files (default: that of the run)")
    return parser
