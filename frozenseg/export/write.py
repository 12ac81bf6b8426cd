"""Write a graph to a file, after comparing it with the model from which it was made."""

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from frozenseg.data.images import read_image
from frozenseg.data.transforms import image_tensor
from frozenseg.export.agreement import (
    LIMITS,
    Agreement,
    Words,
    agreement,
    hard_cases,
    in_parts,
    random_words,
    refuse_unlike,
)
from frozenseg.export.formats import FORMATS
from frozenseg.export.graph import names_of_outputs, traced
from frozenseg.export.results import Results
from frozenseg.files import atomic_path, shipped
from frozenseg.models.frozenseg import FrozenSeg

logger = logging.getLogger(__name__)


def write_graph(
    results: Results, words: Words, path: Path, about: Mapping[str, Any], *, parts: bool = False
) -> list[Agreement]:
    """Write a network with its results to a file, and return how closely it agrees with the model.

    words: the classes for the usual cases of the comparison.
    about: the metadata of the file; its "format", "precision" and "window" decide what is written.
    parts: whether SAM's embedding and regions are inputs, see `Network.forward`.

    Raises `UserError`, without writing a file, if the graph differs too much from the model.
    """
    kind, network, window = FORMATS[about["format"]], results.network, about["window"]
    scenes = [
        image_tensor(read_image(shipped("demo") / "images" / f"scene_{number}.png"))
        for number in (1, 2)
    ]
    free = network.free_classes
    cases = hard_cases(scenes, (window[0], window[1]), words, free_classes=free)
    if parts:
        assert isinstance(network.model, FrozenSeg), "only FrozenSeg takes regions"
        cases = [in_parts(network.model, case) for case in cases]
    outputs = names_of_outputs(results.wanted, regions=parts)
    logger.info("%s: tracing %d x %d", path, *window)
    first = cases[0]
    if free:  # a trace with a single class would fix the number of classes to one
        some = random_words(3, 4, words.text.weight.shape[1])
        first = replace(first, text=some.text, is_thing=some.is_thing)
    program = traced(results, first)
    with atomic_path(path) as temporary:
        try:
            logger.info("%s: writing %s, %s", path, about["format"], about["precision"])
            kind.write(program, temporary, outputs, about)
            logger.info("%s: comparing %d inputs with the model", path, len(cases))
            run = kind.run(temporary, outputs)
            found = agreement(network.model, results.rules, run, cases)
            refuse_unlike(found, LIMITS[about["precision"]], str(path))
            kind.note(temporary, {**about, "agreement": [asdict(case) for case in found]})
            for suffix in kind.beside:
                os.replace(temporary.with_suffix(suffix), path.with_suffix(suffix))
        finally:
            for suffix in kind.beside:
                temporary.with_suffix(suffix).unlink(missing_ok=True)
    return found
