"""Download published weights to where models look for them, with resuming and checking."""

import argparse

from frozenseg.checkpoints.download import download
from frozenseg.checkpoints.published_files import PUBLISHED, PublishedFile, find_published
from frozenseg.errors import UserError, one_line


def main(argv: list[str]) -> None:
    """List the known weights, or download the named ones one after the other."""
    arguments = _parser().parse_args(argv)
    if arguments.list:
        print("\n".join(f"{name:24s} {_about(row)}" for name, row in PUBLISHED.items()))
        return
    if not arguments.names:
        raise UserError("nothing to download: give a NAME, or --list")
    # All names are looked up first, so that an unknown one is reported before any download.
    rows = {name: find_published(name) for name in arguments.names}
    for name, row in rows.items():
        done = download(row)
        print(one_line(f"{name}: {done.path}"))
        print(f"  licence: {row.licence}")
        known = "as published" if done.checked else "no digest is published; keep this one"
        print(f"  SHA-256: {done.sha256} ({known})")
        if row.recipe:
            print(f"  use it: frozenseg demo --config-file {name} ...")


def _about(row: PublishedFile) -> str:
    size = "unknown size" if row.size is None else f"{row.size:,} bytes"
    return f"{row.holds}; {size}; licence: {row.licence}; {row.address}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg download",
        description=__doc__,
        epilog="If a download is interrupted, the same command resumes it. Files are written to "
        "pretrained_checkpoint/ in the working folder, those of the Hugging Face hub to its cache.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="name of weights; see --list")
    parser.add_argument(
        "--list", action="store_true", help="list all weights, and download nothing"
    )
    return parser
