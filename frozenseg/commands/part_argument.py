"""--part K/N, for the commands whose inputs can be divided among several runs."""

import re

from frozenseg.data.prediction_lines import Part
from frozenseg.errors import UserError


def part_of(text: str) -> Part:
    """Read K/N; the type of --part."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    part = Part(*map(int, match.groups())) if match else Part(0, 0)
    if not 1 <= part.number <= part.total:
        raise UserError(f"--part {text}: expected K/N with K in 1-N, e.g. 2/4")
    return part
