"""Find the inputs of `frozenseg demo` whose results have to be made again."""

import logging
from pathlib import Path

from frozenseg.commands.result_names import Input, is_film
from frozenseg.data.prediction_lines import PredictionLines
from frozenseg.data.results import frame_maps, panoptic_path
from frozenseg.files import writing

logger = logging.getLogger(__name__)


def forget_lost(inputs: list[Input], output: Path, lines: PredictionLines) -> bool:
    """Remove what is left of results whose label maps are missing; tell whether there were any.

    Their inputs are then no longer done. A warning says how many they are.
    """
    done = [entry for entry in inputs if entry.source in lines.done]
    lost = [entry for entry in done if not _has_label_maps(entry, output, lines)]
    if not lost:
        return False
    logger.warning("%d inputs are made again: their label maps are missing", len(lost))
    for entry in lost:
        _remove_results(entry, output)
    # Last, so that a run that is killed before leaves lines that lack label maps, as it found them.
    lines.forget({entry.source for entry in lost})
    return True


def _has_label_maps(entry: Input, output: Path, lines: PredictionLines) -> bool:
    if is_film(entry.path):
        return len(frame_maps(output, entry.name)) >= lines.frames[entry.source]
    return panoptic_path(output, f"{entry.name}.png").exists()


def _remove_results(entry: Input, output: Path) -> None:
    film = is_film(entry.path)
    maps = frame_maps(output, entry.name) if film else [panoptic_path(output, f"{entry.name}.png")]
    for path in [output / entry.picture, *maps]:
        with writing(path):
            path.unlink(missing_ok=True)
