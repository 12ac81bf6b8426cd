"""Find the inputs of `frozenseg demo` whose results have to be made again."""

import logging
from pathlib import Path

from tqdm import tqdm

from frozenseg.commands.result_names import Input, is_film
from frozenseg.data.file_states import has_changed
from frozenseg.data.prediction_lines import PredictionLines
from frozenseg.data.results import label_maps, panoptic_path
from frozenseg.files import writing

logger = logging.getLogger(__name__)


def forget_outdated(inputs: list[Input], output: Path, lines: PredictionLines) -> bool:
    """Remove results without their own label maps or whose files have changed; tell whether any.

    Their inputs are then no longer done or begun. A warning says how many they are.
    """
    begun = {lines.begun.source} if lines.begun else set()
    read = [entry for entry in inputs if entry.source in lines.done.keys() | begun]
    lost = [entry for entry in read if not _has_label_maps(entry, output, lines)]
    # If a folder was copied, all files have new times, and reading them takes a while.
    known = [entry for entry in inputs if entry.source in lines.files]
    bar = tqdm(known, unit=" files compared", delay=2, disable=None)
    changed = [entry for entry in bar if has_changed(Path(entry.path), lines.files[entry.source])]
    for entries, reason in (
        (lost, "their label maps are missing, or some are of an earlier run"),
        (changed, "their files have changed since they were read"),
    ):
        if entries:
            logger.warning("%d inputs are made again: %s", len(entries), reason)
    for entry in (again := [*lost, *changed]):
        remove_results(entry, output)
    if again:
        # Last, so that a run that is killed before leaves lines whose label maps are missing.
        lines.forget({entry.source for entry in again})
    return bool(again)


def _has_label_maps(entry: Input, output: Path, lines: PredictionLines) -> bool:
    """Tell whether an input has as many label maps as frames, or a begun video those it will keep.

    More of them are no proof: earlier versions left those of replaced runs in the folder of a
    video, where they would hide a missing one. After the frames that a begun video keeps, its
    stopped run has left some more.
    """
    if lines.begun is not None and entry.source == lines.begun.source:
        kept = (line["panoptic"]["file_name"] for line in lines.frames_begun())
        return all(panoptic_path(output, name).exists() for name in kept)
    found = label_maps(output, entry.name, is_film(entry.path))
    return sum(1 for _ in found) == lines.frames.get(entry.source, 1)


def remove_results(entry: Input, output: Path) -> None:
    """Remove the picture or output video and the label maps of an input.

    The label maps come last: a run that is killed before knows by them that the picture is a
    result and may be replaced.
    """
    for path in [output / entry.picture, *label_maps(output, entry.name, is_film(entry.path))]:
        with writing(path):
            path.unlink(missing_ok=True)
