"""What a part of a model adds in the small world, over several seeds, with a control.

frozenseg: the injectors, one by one; the last arm is evaluated once more with names shuffled.
fusioner: pairs of frozen encoders, and the same with a visual encoder that was never trained.

Trains every arm with every seed through train_net (a run that is there already is not made again)
and writes results.json, a table and a plot.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frozenseg.build.vocabulary import build_training_vocabulary
from frozenseg.commands import train_net
from frozenseg.config import load_config
from frozenseg.errors import UserError, import_extra, nearest
from frozenseg.evaluation.results_file import read_results
from frozenseg.evaluation.tasks import Summary
from frozenseg.files import atomic_path, read_json, user_path, write_json
from frozenseg.small_world.vocabulary import world_vocabulary
from frozenseg.text.vocabulary import Vocabulary

SHARES = ("seen", "unseen")  # of the classes


@dataclass(frozen=True)
class Experiment:
    """A comparison of models.

    config: the recipe of all arms.
    arms: {name: (what it is, the options that make it)}.
    metrics: {key of the results: heading}; keys of a second test set begin with its name.
    shuffled: whether the last arm is tested once more with names shuffled, as the control.
    """

    config: Path
    arms: dict[str, tuple[str, list[str]]]
    metrics: dict[str, str]
    shuffled: bool


def _injectors(query: bool, feature: bool, levels: int, view: str, positions: bool) -> list[str]:
    prefix = "MODEL.FROZEN_SEG."
    return [
        *(prefix + "QUERY_INJECTOR", str(query)),
        *(prefix + "FEATURE_INJECTOR", str(feature)),
        *(prefix + "SAM_ENCODER_LEVELS", str(levels)),
        *(prefix + "SAM_VIEW", view),
        *(prefix + "KEEP_KEY_POSITIONS", str(positions)),
        *("TEST.USE_SAM_MASKS", "False"),  # they would hide what an injector adds
    ]


FROZENSEG = Experiment(
    config=Path("small/frozenseg"),
    arms={
        "a": ("FC-CLIP (no injectors)", _injectors(False, False, 1, "stretch", False)),
        "b": ("a + Query Injector", _injectors(True, False, 1, "stretch", False)),
        "c": ("b + Feature Injector, as published", _injectors(True, True, 3, "stretch", False)),
        "d": ("b + Feature Injector, corrected", _injectors(True, True, 1, "stretch", False)),
        "e": ("d, SAM's keep-aspect view", _injectors(True, True, 1, "keep_aspect", False)),
        "f": ("e, key positions kept", _injectors(True, True, 1, "keep_aspect", True)),
    },
    metrics={
        **{f"{key}-{part}": f"{key} {part}" for key in ("PQ", "mIoU", "AP") for part in SHARES},
        "S_Recall@IoU=0.75": "recall seen",
        "U_Recall@IoU=0.75": "recall unseen",
    },
    shuffled=True,
)


def _visual(encoder: str, *, trained: bool) -> list[str]:
    """Options of a visual encoder beside the small CLIP's text."""
    prefix = "MODEL.FUSIONER.VISUAL"
    weights = f"frozenseg://small/{encoder}.safetensors" if trained else ""
    # SAM's cells are fine already: 8 pixels of its input, CLIP's are 32.
    name, doublings = {"clip": ("frozenseg_small", 3), "sam": ("small", 0)}[encoder]
    return [
        *(prefix, encoder, f"{prefix}_NAME", name, f"{prefix}_WEIGHTS", weights),
        *("MODEL.FUSIONER.DECODER_DOUBLINGS", str(doublings)),
        *("MODEL.ALLOW_RANDOM_WEIGHTS", str(not trained)),
    ]


FUSIONER = Experiment(
    config=Path("small/fusioner"),
    arms={
        "clip": ("CLIP image + CLIP text", _visual("clip", trained=True)),
        "sam": ("SAM image + CLIP text", _visual("sam", trained=True)),
        "clip0": ("untrained CLIP image + CLIP text (control)", _visual("clip", trained=False)),
        "sam0": ("untrained SAM image + CLIP text (control)", _visual("sam", trained=False)),
    },
    metrics={
        **{f"{key}-{part}": f"{key} {part}" for key in ("mIoU", "oracle mIoU") for part in SHARES},
        "small_world_mosaic4_seen mosaic mIoU": "Mosaic-4 seen",
        "small_world_mosaic4 mosaic mIoU": "Mosaic-4 unseen",
    },
    shuffled=False,
)
EXPERIMENTS = {"frozenseg": FROZENSEG, "fusioner": FUSIONER}
CONTROL = "shuffled"  # the last arm with names of other classes
Scores = dict[str, dict[str, list[float]]]  # arm -> metric -> one number a seed


def main(argv: list[str]) -> int | None:
    """Train and test each arm with each seed, and write the table and the picture."""
    arguments = _parser().parse_args(argv)
    experiment = EXPERIMENTS[arguments.experiment]
    arguments.config_file = arguments.config_file or experiment.config
    arguments.output = arguments.output or Path(f"output/small_world_{arguments.experiment}")
    arms = arguments.arms or list(experiment.arms)
    for arm in arms:
        if arm not in experiment.arms:
            raise UserError(f"--arms {arm}: no such arm; {nearest(arm, list(experiment.arms))}")
    output: Path = arguments.output
    _same_settings(arguments)
    rows = [*arms, CONTROL] if experiment.shuffled else arms
    for seed in arguments.seeds:
        for row in rows:
            status = _run(arguments, experiment, row, arms[-1], seed)
            if status not in (0, None):
                return status
    scores = collect(experiment, output, rows, arguments.seeds)
    write_json(output / "results.json", scores, indent=1)
    with atomic_path(output / "table.md") as temporary:
        temporary.write_text(table(experiment, scores), encoding="utf-8")
    with atomic_path(output / "plot.png") as temporary:
        plot(experiment, scores, temporary)
    print(table(experiment, scores))
    return 0


def _same_settings(arguments: argparse.Namespace) -> None:
    """Check that runs that are there already, which are taken as they are, were made alike."""
    path = arguments.output / "settings.json"
    cfg = load_config(arguments.config_file, arguments.options, freeze=False)
    cfg.TEST.EXPECTED_RESULTS = []  # nobody looks at them here
    settings = {"configuration": cfg.dump()}
    if not path.is_file():
        write_json(path, settings)
    elif read_json(path) != settings:
        raise UserError(
            f"{arguments.output}: holds runs of another recipe or other --options; "
            "choose another --output, or remove the folder"
        )


def _run(
    arguments: argparse.Namespace, experiment: Experiment, row: str, last: str, seed: int
) -> int | None:
    """Make one run, unless its results are there: of an arm, or the control of the last arm."""
    folder = _folder(arguments.output, row, seed)
    if (folder / "results.json").is_file():
        return 0
    if row == CONTROL:
        flags = ["--eval-only"]
        options = _control(arguments, folder, _folder(arguments.output, last, seed), seed)
    else:
        flags = ["--resume"] if (folder / "checkpoints").is_dir() else []
        options = ["MODEL.WEIGHTS", ""]
    return train_net.main(
        [
            *("--config-file", str(arguments.config_file), *flags),
            *("SEED", str(seed), "OUTPUT_DIR", str(folder), "TEST.EXPECTED_RESULTS", "[]"),
            *(options + experiment.arms[last if row == CONTROL else row][1] + arguments.options),
        ]
    )


def _control(arguments: argparse.Namespace, folder: Path, trained: Path, seed: int) -> list[str]:
    """Write the shuffled names; return the options that test the run in `trained` with them."""
    training = build_training_vocabulary(load_config(arguments.config_file, arguments.options))
    words = folder / "vocabulary.txt"
    with atomic_path(words) as temporary:
        temporary.write_text(shuffled(world_vocabulary(), training, seed).text(), encoding="utf-8")
    return [
        *("MODEL.WEIGHTS", str(trained / "model_final.safetensors")),
        *("DATASETS.VOCABULARY", str(words), "DATASETS.VOCABULARY_JOIN", "order"),
    ]


def _folder(output: Path, arm: str, seed: int) -> Path:
    return output / f"{arm}_seed_{seed}"


def shuffled(vocabulary: Vocabulary, training: Vocabulary, seed: int) -> Vocabulary:
    """Name every class as another one of its kind (things or stuff, seen or unseen).

    No class keeps its own name, unless it is the only one of its kind.
    """
    kinds = list(zip(vocabulary.is_thing, vocabulary.seen(training), strict=True))
    names = list(vocabulary.names)
    chance = random.Random(seed)
    for kind in sorted(set(kinds)):
        class_ids = [class_id for class_id, its_kind in enumerate(kinds) if its_kind == kind]
        ring = chance.sample(class_ids, len(class_ids))
        for class_id, other in zip(ring, ring[1:] + ring[:1], strict=True):
            names[class_id] = vocabulary.names[other]
    return Vocabulary(tuple(names), vocabulary.is_thing)


def collect(
    experiment: Experiment, output: Path, arms: Sequence[str], seeds: Sequence[int]
) -> Scores:
    """Read the numbers of all runs; NaN where there was nothing to score."""
    scores: Scores = {}
    for arm in arms:
        rows = [_summary(_folder(output, arm, seed) / "results.json") for seed in seeds]
        scores[arm] = {key: [row[key] for row in rows] for key in experiment.metrics}
    return scores


def _summary(path: Path) -> Summary:
    """Return the metrics of the first test set, and of the others behind their names."""
    (_, first), *others = read_results(path).items()
    rows = {f"{name} {key}": value for name, row in others for key, value in row.summary.items()}
    return {**first.summary, **rows}


def title_of(experiment: Experiment, arm: str) -> str:
    """Return the name of an arm in the table."""
    return "names shuffled (control)" if arm == CONTROL else f"({arm}) {experiment.arms[arm][0]}"


def table(experiment: Experiment, scores: Scores) -> str:
    """Return a Markdown table of means +- standard deviations over the seeds, in per cent."""
    headings = experiment.metrics.values()
    lines = [f"| | {' | '.join(headings)} |", "| --- |" + " --- |" * len(headings)]
    for arm, row in scores.items():
        cells = [
            f"{np.mean(row[key]):.1f} ± {np.std(row[key], ddof=1):.1f}"
            if len(row[key]) > 1
            else f"{row[key][0]:.1f}"
            for key in experiment.metrics
        ]
        lines.append(f"| {title_of(experiment, arm)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(experiment: Experiment, scores: Scores, path: Path) -> None:
    """Draw a dot for every run and a bar at the mean, with one panel for each metric."""
    Figure = import_extra("matplotlib.figure", "train", "a picture of the scores").Figure
    metrics = experiment.metrics
    figure = Figure(figsize=(13, 6), layout="constrained")
    panels = figure.subplots(2, len(metrics) // 2).T.flat
    for axes, (key, label) in zip(panels, metrics.items(), strict=True):
        for x, row in enumerate(scores.values()):
            axes.plot([x] * len(row[key]), row[key], "o", color="tab:blue", alpha=0.6)
            axes.hlines(np.mean(row[key]), x - 0.3, x + 0.3, color="black")
        axes.set(title=label, ylim=(0, None))
        axes.set_xticks(range(len(scores)), ["shuf." if arm == CONTROL else arm for arm in scores])
        axes.grid(axis="y", alpha=0.3)
    figure.supylabel("per cent")
    figure.savefig(path, dpi=100)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg small_world_experiment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("experiment", choices=list(EXPERIMENTS), nargs="?", default="frozenseg", help="%(default)s")
    add("--config-file", type=user_path, help="recipe (default: the experiment's own)")
    add("--output", type=user_path, help="default: output/small_world_EXPERIMENT")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    add("--arms", nargs="+", help="default: all; of the last one the shuffled control is made")
    add("--options", nargs="*", default=[], metavar="KEY VALUE", help="over the recipe, for all")
    return parser
