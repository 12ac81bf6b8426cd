#!/usr/bin/env python3
"""Segment images and videos; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so it runs without installation

from frozenseg.commands import run_module  # noqa: E402

if __name__ == "__main__":
    run_module("demo")
