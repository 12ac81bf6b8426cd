#!/usr/bin/env python3
"""Train or evaluate under detectron2; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout, not installed

from frozenseg.commands import run  # noqa: E402
from frozenseg.commands.detectron2_train_net import main  # noqa: E402

if __name__ == "__main__":
    run(main)
