"""Write the results of `frozenseg batch` as files for other tools.

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
    from frozenseg.batch.rows import shard_errors

    run = arguments.run
    manifest = Manifest(run)
    left, failed = manifest.total, 0
    for number in manifest.shards:
        errors = shard_errors(run, manifest, number) or []
        left -= len(errors)
        failed += sum(error is not None for error in errors)
    if left:
        logger.warning("%s: %d of %d images are not done yet", run, left, manifest.total)
    if failed:
        logger.warning(
            "%s: %d images could not be read and are left out; their rows say why", run, failed
        )
    path = FORMS[arguments.to](run, arguments.output or run)
    print(one_line(str(path) if left else f"{path}: {manifest.total - failed} images"))
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg batch export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=user_path, metavar="OUTPUT", help="the output folder of the run")
    add("--to", required=True, choices=("coco", "masks", "supervision"), help="format to write")
    add("--output", type=user_path, help="folder for the files (default: that of the run)")
    return parser
