"""What each part of FrozenSeg adds in the small world, over several seeds, with a control.

Trains every arm with every seed through train_net (a run that is there already is not made again),
evaluates the last arm once more with names shuffled, and writes results.json, a table and a plot.
"""

import argparse
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.commands import train_net
from frozenseg.config import load_config
from frozenseg.data.small_world.vocabulary import world_vocabulary
from frozenseg.errors import UserError, nearest
from frozenseg.files import atomic_path, read_json, write_json
from frozenseg.text.vocabulary import Vocabulary

CONFIG = Path("configs/small/frozenseg.yaml")


def _injectors(*, query: bool, feature: bool, levels: int, view: str, positions: bool) -> list[str]:
    prefix = "MODEL.FROZEN_SEG."
    return [
        *(prefix + "QUERY_INJECTOR", str(query)),
        *(prefix + "FEATURE_INJECTOR", str(feature)),
        *(prefix + "SAM_ENCODER_LEVELS", str(levels)),
        *(prefix + "SAM_VIEW", view),
        *(prefix + "KEEP_KEY_POSITIONS", str(positions)),
        *("TEST.USE_SAM_MASKS", "False"),  # they would hide what an injector adds
    ]


# Name, what it is, the options that make it.
ARMS: dict[str, tuple[str, list[str]]] = {
    "a": (
        "FC-CLIP (no injectors)",
        _injectors(query=False, feature=False, levels=1, view="stretch", positions=False),
    ),
    "b": (
        "a + Query Injector",
        _injectors(query=True, feature=False, levels=1, view="stretch", positions=False),
    ),
    "c": (
        "b + Feature Injector, as published",
        _injectors(query=True, feature=True, levels=3, view="stretch", positions=False),
    ),
    "d": (
        "b + Feature Injector, corrected",
        _injectors(query=True, feature=True, levels=1, view="stretch", positions=False),
    ),
    "e": (
        "d, SAM's keep-aspect view",
        _injectors(query=True, feature=True, levels=1, view="keep_aspect", positions=False),
    ),
    "f": (
        "e, key positions kept",
        _injectors(query=True, feature=True, levels=1, view="keep_aspect", positions=True),
    ),
}
CONTROL = "shuffled"  # the last arm with names of other classes
METRICS = {
    "PQ-seen": "PQ seen",
    "PQ-unseen": "PQ unseen",
    "mIoU-seen": "mIoU seen",
    "mIoU-unseen": "mIoU unseen",
    "AP-seen": "AP seen",
    "AP-unseen": "AP unseen",
    "S_Recall@IoU=0.75": "recall seen",
    "U_Recall@IoU=0.75": "recall unseen",
}
Scores = dict[str, dict[str, list[float]]]  # arm -> metric -> one number a seed


def main(argv: list[str]) -> int | None:
    arguments = _parser().parse_args(argv)
    for arm in arguments.arms:
        if arm not in ARMS:
            raise UserError(f"--arms {arm}: no such arm; {nearest(arm, list(ARMS))}")
    output: Path = arguments.output
    _same_settings(arguments)
    for seed in arguments.seeds:
        for arm in arguments.arms:
            status = _train(arguments, arm, seed)
            if status not in (0, None):
                return status
        status = _control(arguments, arguments.arms[-1], seed)
        if status not in (0, None):
            return status
    scores = collect(output, [*arguments.arms, CONTROL], arguments.seeds)
    write_json(output / "results.json", scores, indent=1)
    with atomic_path(output / "table.md") as temporary:
        temporary.write_text(table(scores), encoding="utf-8")
    with atomic_path(output / "plot.png") as temporary:
        plot(scores, temporary)
    print(table(scores))
    return 0


def _same_settings(arguments: argparse.Namespace) -> None:
    """Runs that are there already are taken as they are: they must have been made alike."""
    path = arguments.output / "settings.json"
    cfg = load_config(arguments.config_file, arguments.options, freeze=False)
    cfg.TEST.EXPECTED_RESULTS = []  # looked at by nobody here
    wanted = {"configuration": cfg.dump()}
    if not path.is_file():
        write_json(path, wanted)
    elif read_json(path) != wanted:
        raise UserError(
            f"{arguments.output}: holds runs of another recipe or other --options; "
            "choose another --output, or remove the folder"
        )


def _train(arguments: argparse.Namespace, arm: str, seed: int) -> int | None:
    folder = _folder(arguments.output, arm, seed)
    if (folder / "results.json").is_file():
        return 0
    resume = ["--resume"] if (folder / "checkpoints").is_dir() else []
    return train_net.main(
        [
            *("--config-file", str(arguments.config_file), *resume),
            *("MODEL.WEIGHTS", "", "SEED", str(seed), "OUTPUT_DIR", str(folder)),
            *("TEST.EXPECTED_RESULTS", "[]"),
            *ARMS[arm][1],
            *arguments.options,
        ]
    )


def _control(arguments: argparse.Namespace, arm: str, seed: int) -> int | None:
    folder = _folder(arguments.output, CONTROL, seed)
    if (folder / "results.json").is_file():
        return 0
    cfg = load_config(arguments.config_file, arguments.options)
    training = Vocabulary.packaged(cfg.DATASETS.TRAIN_VOCABULARY)
    words = folder / "vocabulary.txt"
    write_vocabulary(words, shuffled(world_vocabulary(), training, seed))
    weights = _folder(arguments.output, arm, seed) / "model_final.safetensors"
    return train_net.main(
        [
            *("--config-file", str(arguments.config_file), "--eval-only"),
            *("MODEL.WEIGHTS", str(weights), "SEED", str(seed), "OUTPUT_DIR", str(folder)),
            *("DATASETS.VOCABULARY", str(words), "TEST.EXPECTED_RESULTS", "[]"),
            *ARMS[arm][1],
            *arguments.options,
        ]
    )


def _folder(output: Path, arm: str, seed: int) -> Path:
    return output / f"{arm}_seed_{seed}"


def shuffled(vocabulary: Vocabulary, training: Vocabulary, seed: int) -> Vocabulary:
    """Every class under the name of another of its kind (things or stuff, seen or unseen); none
    keeps its own, unless it is the only one."""
    kinds = list(zip(vocabulary.is_thing, vocabulary.seen(training), strict=True))
    names = list(vocabulary.names)
    chance = random.Random(seed)
    for kind in sorted(set(kinds)):
        places = [place for place, its_kind in enumerate(kinds) if its_kind == kind]
        ring = chance.sample(places, len(places))
        for place, other in zip(ring, ring[1:] + ring[:1], strict=True):
            names[place] = vocabulary.names[other]
    return Vocabulary(tuple(names), vocabulary.is_thing)


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """In the order of the classes, for `DATASETS.VOCABULARY`."""
    lines = []
    for names, is_thing in zip(vocabulary.names, vocabulary.is_thing, strict=True):
        lines += ["[things]" if is_thing else "[stuff]", ", ".join(names)]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def collect(output: Path, arms: Sequence[str], seeds: Sequence[int]) -> Scores:
    """The numbers of all runs."""
    scores: Scores = {}
    for arm in arms:
        found = [read_json(_folder(output, arm, seed) / "results.json") for seed in seeds]
        summaries = [_only_set(result)["summary"] for result in found]
        scores[arm] = {key: [_number(row[key]) for row in summaries] for key in METRICS}
    return scores


def _number(value: float | None) -> float:
    """A results file has null where there was nothing to score."""
    return math.nan if value is None else value


def _only_set(result: Mapping[str, Any]) -> Any:
    if len(result) != 1:
        raise UserError(f"one data set was expected, found {json.dumps([*result])}")
    return next(iter(result.values()))


def title_of(arm: str) -> str:
    return "names shuffled (control)" if arm == CONTROL else f"({arm}) {ARMS[arm][0]}"


def table(scores: Scores) -> str:
    """Markdown: mean +- standard deviation over the seeds, per cent."""
    lines = [f"| | {' | '.join(METRICS.values())} |", "| --- |" + " --- |" * len(METRICS)]
    for arm, row in scores.items():
        cells = [
            f"{np.mean(row[key]):.1f} ± {np.std(row[key], ddof=1):.1f}"
            if len(row[key]) > 1
            else f"{row[key][0]:.1f}"
            for key in METRICS
        ]
        lines.append(f"| {title_of(arm)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(scores: Scores, path: Path) -> None:
    """A dot for every run and a bar at the mean, one panel a metric."""
    from matplotlib.figure import Figure  # slow to import, and needed at the end only

    figure = Figure(figsize=(13, 6), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(2, 4).T.flat, METRICS.items(), strict=True):
        for place, row in enumerate(scores.values()):
            axes.plot([place] * len(row[key]), row[key], "o", color="tab:blue", alpha=0.6)
            axes.hlines(np.mean(row[key]), place - 0.3, place + 0.3, color="black")
        axes.set(title=label, ylim=(0, None))
        axes.set_xticks(range(len(scores)), ["shuf." if arm == CONTROL else arm for arm in scores])
        axes.grid(axis="y", alpha=0.3)
    figure.supylabel("per cent")
    figure.savefig(path, dpi=100)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="small_world_experiment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", type=Path, default=CONFIG, help="recipe (default: %(default)s)")
    add("--output", type=Path, default=Path("output/small_world_experiment"), help="%(default)s")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    add("--arms", nargs="+", default=list(ARMS), help="the control is made of the last; all")
    add("--options", nargs="*", default=[], metavar="KEY VALUE", help="over the recipe, for all")
    return parser
