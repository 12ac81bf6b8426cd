#!/usr/bin/env python3
"""Prepare fss1000; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout, not installed

from frozenseg.commands import run  # noqa: E402
from frozenseg.commands.prepare_dataset import main  # noqa: E402

if __name__ == "__main__":
    run(lambda argv: main(["fss1000", *argv]))
