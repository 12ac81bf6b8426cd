#!/usr/bin/env python3
"""Train or evaluate a model; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout, not installed

from frozenseg.commands import run_module  # noqa: E402

if __name__ == "__main__":
    run_module("train_net")
