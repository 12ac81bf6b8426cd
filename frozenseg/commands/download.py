"""Fetch published weights to where models look for them, resumed and checked."""

import argparse

from frozenseg.checkpoints.download import download
from frozenseg.checkpoints.published_files import PUBLISHED, PublishedFile, find_published
from frozenseg.errors import UserError, one_line


def main(argv: list[str]) -> None:
    """List what there is, or fetch what is named, one after the other."""
    arguments = _parser().parse_args(argv)
    if arguments.list:
        print("\n".join(f"{name:24s} {_about(row)}" for name, row in PUBLISHED.items()))
        return
    if not arguments.names:
        raise UserError("nothing to fetch: give a NAME, or --list")
    rows = {name: find_published(name) for name in arguments.names}  # unknown names come first
    for name, row in rows.items():
        done = download(row)
        print(one_line(f"{name}: {done.path}"))
        print(f"  licence: {row.licence}")
        known = "as published" if done.checked else "no digest is published; keep this one"
        print(f"  SHA-256: {done.sha256} ({known})")
        if row.recipe:
            print(f"  use it: frozenseg demo --config-file {name} ...")


def _about(row: PublishedFile) -> str:
    size = "size not known" if row.size is None else f"{row.size:,} bytes"
    return f"{row.holds}; {size}; licence: {row.licence}; {row.address}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg download",
        description=__doc__,
        epilog="A download that breaks goes on where it was when the command is given again. Files "
        "go to pretrained_checkpoint/ in the working folder, those of the Hugging Face hub to its "
        "cache.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the weights, see --list")
    parser.add_argument("--list", action="store_true", help="name all weights, and fetch nothing")
    return parser
