"""Draw the pictures that an earlier run of `frozenseg demo` left out, without the model."""

import functools
import logging
from pathlib import Path
from typing import Any

from tqdm import tqdm

from frozenseg.commands.result_names import Input, is_film
from frozenseg.commands.stored_results import stored_result
from frozenseg.data.images import read_image
from frozenseg.data.prediction_lines import images_of
from frozenseg.data.results import write_picture
from frozenseg.errors import UserError, WriteError
from frozenseg.runtime.background import cores, map_ahead
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


def draw_missing(
    done: list[Input], lines: Path, output: Path, vocabulary: Vocabulary
) -> tuple[int, list[tuple[int, str]]]:
    """Draw the images that are segmented but have no picture, from their stored predictions.

    A warning says how many output videos are missing; they are not made. Returns how many pictures
    were drawn and, for each image that could not be drawn, its number and a line with the reason.

    done: the inputs that are segmented. lines: the file that holds their predictions.
    """
    missing, films = {}, 0
    for entry in done:
        if not (output / entry.picture).exists():
            films += is_film(entry.path)
            if not is_film(entry.path):
                missing[entry.source] = entry
    if films:
        logger.warning(
            "%d output videos of earlier runs are missing; --overwrite makes them", films
        )
    if not missing:
        return 0, []
    found = (line for line in images_of(lines) if line["input"] in missing)
    pairs = ((missing[line["input"]], line) for line in found)
    draw = functools.partial(_drawn, output=output, vocabulary=vocabulary)
    results = map_ahead(draw, pairs, workers=cores(), depth=cores())
    failures = list(tqdm(results, total=len(missing), unit=" pictures", disable=None))
    reasons = [reason for reason in failures if reason is not None]
    return len(failures) - len(reasons), reasons


def _drawn(
    pair: tuple[Input, dict[str, Any]], *, output: Path, vocabulary: Vocabulary
) -> tuple[int, str] | None:
    """Draw an image; if it cannot be drawn, return its number and the reason."""
    entry, line = pair
    try:
        assert isinstance(entry.path, Path), "`draw_missing` passes only images"
        pixels = read_image(entry.path)
        result = stored_result(line, pixels, output=output, vocabulary=vocabulary)
        write_picture(output / entry.picture, result.draw())
    except WriteError:
        raise
    except UserError as error:
        return entry.number, f"{entry.path}: its picture cannot be drawn ({error})"
    return None
