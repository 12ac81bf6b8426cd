"""What a part of a model adds in the small world: arms in pairs, over several seeds.

frozenseg: the injectors, one by one, and what the recipe's fine print is worth.
fusioner: pairs of frozen encoders, early and late fusion, and how names are asked for.

All arms of a seed see the same images in the same order and begin with the same weights where they
have the same parts. Each is trained to the first number of steps and scored, then to the next, for
as many hours as there are: what is there already is not made again. The report (report.md and
plot.png, made of results.json) holds what has been scored so far, behind the text of
conclusions.md, if that lies beside them.

--cooldown 0.3 scores a branch of each training in its place: 30 % more steps, in which the learning
rate falls to a hundredth. Such scores need an --output of their own.
"""

import argparse
import itertools
import logging
import math
import random
import re
import time
from pathlib import Path

import yaml

from frozenseg.build.vocabulary import build_training_vocabulary
from frozenseg.commands import make_sam_masks
from frozenseg.commands.number_arguments import check_least
from frozenseg.config import default_config, load_config, merge_values
from frozenseg.errors import UserError, nearest
from frozenseg.files import atomic_path, read_json, user_path, write_json
from frozenseg.small_world.experiment.arms import (
    CONTROL,
    ENCODERS,
    EXPERIMENTS,
    ORACLE,
    PROPOSALS,
    Arm,
    Experiment,
    with_folders,
)
from frozenseg.small_world.experiment.beginnings import write_beginnings
from frozenseg.small_world.experiment.encoders import encoder_digests
from frozenseg.small_world.experiment.oracle import write_oracle
from frozenseg.small_world.experiment.outcome import Outcome
from frozenseg.small_world.experiment.paired import Scored
from frozenseg.small_world.experiment.report import plot, report
from frozenseg.small_world.experiment.runs import Run, falls, read
from frozenseg.small_world.vocabulary import world_vocabulary
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

MOST_FEATURES = "20"  # GB of frozen features on disk
# A decoder without weights; the frozen encoders have theirs.
UNTRAINED = ("MODEL.WEIGHTS", "", "MODEL.ALLOW_RANDOM_WEIGHTS", "True")


def main(argv: list[str]) -> int | None:
    """Train and score each arm with each seed, and write the report."""
    arguments = _parser().parse_args(argv)
    check_least(arguments, seeds=0, steps=1, hours=0)
    if arguments.report:
        _write_report(Outcome.read(arguments.report), arguments.report.parent)
        return 0
    experiment = EXPERIMENTS[arguments.experiment]
    arguments.config_file = arguments.config_file or experiment.config
    arguments.output = arguments.output or Path(f"output/small_world_{arguments.experiment}")
    arguments.arms = arguments.arms or list(experiment.usual)
    arguments.steps = sorted(arguments.steps or experiment.steps)
    for arm in arguments.arms:
        if arm not in experiment.arms:
            raise UserError(f"--arms {arm}: no such arm; {nearest(arm, list(experiment.arms))}")
    for steps in arguments.steps:
        if arguments.cooldown and falls(steps, arguments.cooldown)[-1] == steps:
            raise UserError(
                f"--cooldown {arguments.cooldown:g}: less than one step of {steps}; give a larger "
                "share, or more --steps"
            )
    _same_settings(arguments, experiment)
    if _make_runs(arguments, experiment):
        logger.info("stopped; the same command goes on")
    found = collect(arguments.output, experiment)
    outcome = Outcome.of_runs(arguments.experiment, found, arguments.cooldown)
    outcome.write(arguments.output / "results.json")
    _write_report(outcome, arguments.output)
    return 0


def _same_settings(arguments: argparse.Namespace, experiment: Experiment) -> None:
    """Check that runs that are there already, which are taken as they are, were made alike."""
    path = arguments.output / "settings.json"
    cfg = load_config(arguments.config_file, arguments.options, freeze=False)
    cfg.TEST.EXPECTED_RESULTS = []  # nobody looks at them here
    options = [option for name in arguments.arms for option in experiment.arms[name].options]
    encoders = encoder_digests(options, arguments.encoders)
    settings = {"configuration": cfg.dump(), "cooldown": arguments.cooldown, "encoders": encoders}
    if not path.is_file():
        write_json(path, settings)
        return
    there = read_json(path)
    same = _completed(there["configuration"]) == _completed(settings["configuration"])
    if not same or there.get("cooldown", 0.0) != arguments.cooldown:
        raise UserError(
            f"{arguments.output}: holds runs of another recipe, --cooldown or other --options; "
            "choose another --output, or remove the folder"
        )
    known = there.get("encoders", {})  # none in folders of earlier versions
    for name in encoders.keys() & known.keys():
        if encoders[name] != known[name]:
            raise UserError(
                f"{arguments.encoders / name}: {arguments.output} holds runs with another one; "
                "give the same --encoders, choose another --output, or remove that folder"
            )
    if encoders.keys() - known.keys():  # of arms that are new here
        write_json(path, {**there, "encoders": known | encoders})


def _completed(configuration: str) -> str:
    """Return a written configuration with the keys that are newer than it, as they are by
    default."""
    cfg = default_config()
    merge_values(cfg, yaml.safe_load(configuration), "settings.json")
    return cfg.dump()


def _make_runs(arguments: argparse.Namespace, experiment: Experiment) -> bool:
    """Make what is missing, stage by stage; returns True if it was stopped before the end."""
    end = time.monotonic() + 3600 * arguments.hours
    _prepare(arguments, experiment)
    for steps, seed in itertools.product(arguments.steps, arguments.seeds):
        runs = _runs(arguments, experiment, seed)
        # Arms that are scored with the weights of others come behind them, at the same stage.
        for arm in sorted(runs, key=lambda name: experiment.arms[name].trained_as is not None):
            run, other = runs[arm], experiment.arms[arm].trained_as
            if run.scores(steps).is_file():
                continue
            if time.monotonic() > end:
                return True
            if other is None:
                if not run.train(steps):
                    return True
            elif not run.trained(steps):
                said = "%s of seed %d: left out, %s is not at %d steps (any more)"
                logger.warning(said, arm, seed, other, steps)
                continue
            run.score(steps)
        control = runs.get(experiment.control or "")
        if control and seed == arguments.seeds[0] and control.trained(steps):
            if not control.scores(steps, f"_{CONTROL}").is_file():
                control.score(steps, *_shuffled_names(arguments, seed), name=f"_{CONTROL}")
    return False


def _prepare(arguments: argparse.Namespace, experiment: Experiment) -> None:
    """Make the files that arms need and that are not there yet."""
    arms = [experiment.arms[name] for name in arguments.arms]
    if any(PROPOSALS in arm.options for arm in arms):
        _make_proposals(arguments)
    for arm in arms:
        if ORACLE in arm.options:
            options = (*_options(arguments, arm), *UNTRAINED)
            write_oracle(load_config(arguments.config_file, list(options)))


def _proposals(arguments: argparse.Namespace) -> Path:
    return Path(arguments.output / "proposals")


def _make_proposals(arguments: argparse.Namespace) -> None:
    """Write SAM's proposals of the training images, as far as they are not there yet."""
    cfg = load_config(arguments.config_file, arguments.options)
    for name in cfg.DATASETS.TRAIN:
        make_sam_masks.main(
            [
                *("--config-file", str(arguments.config_file), "--dataset", name),
                *("--output", str(_proposals(arguments)), *arguments.options),
            ]
        )


def _runs(arguments: argparse.Namespace, experiment: Experiment, seed: int) -> dict[str, Run]:
    """Return the runs of one seed, by arm, with their first weights on disk."""
    configs, options = {}, {}
    for name, arm in experiment.arms.items():
        options[name] = (*_options(arguments, arm), "SEED", str(seed))
        configs[name] = load_config(arguments.config_file, list(options[name]))
    trained = [name for name, arm in experiment.arms.items() if arm.trained_as is None]
    last = max((trained.index(name) for name in arguments.arms if name in trained), default=-1)
    weights = write_beginnings(  # those before the last one share their weights with it
        {name: configs[name] for name in trained[: last + 1]}, arguments.output / "beginnings"
    )
    return {
        name: Run(
            folder=arguments.output / f"{name}_seed_{seed}",
            config=arguments.config_file,
            options=options[name],
            weights=weights.get(name),
            trained_in=arguments.output / f"{experiment.arms[name].trained_as or name}_seed_{seed}",
            cooldown=arguments.cooldown,
        )
        for name in arguments.arms
    }


def _options(arguments: argparse.Namespace, arm: Arm) -> tuple[str, ...]:
    """Return the options of an arm, with all its folders."""
    folders = {
        ENCODERS: arguments.encoders,
        PROPOSALS: _proposals(arguments),
        ORACLE: arguments.output / "oracle",
    }
    options = (*with_folders(arm.options, folders), *arguments.options)
    if not load_config(arguments.config_file, list(options)).INPUT.FIXED_VIEWS:
        return options
    cache = ("DATALOADER.FEATURE_CACHE", str(arguments.output / "features"))
    return (*cache, "DATALOADER.FEATURE_CACHE_GB", MOST_FEATURES, *options)


def _shuffled_names(arguments: argparse.Namespace, seed: int) -> list[str]:
    """Write the shuffled names; return the options that test a model with them."""
    training = build_training_vocabulary(load_config(arguments.config_file, arguments.options))
    words = arguments.output / "shuffled" / f"{seed}.txt"
    with atomic_path(words) as temporary:
        temporary.write_text(shuffled(world_vocabulary(), training, seed).text(), encoding="utf-8")
    return ["DATASETS.VOCABULARY", str(words), "DATASETS.VOCABULARY_JOIN", "order"]


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


def _write_report(outcome: Outcome, folder: Path) -> None:
    """Write the report of an outcome into a folder, behind the conclusions of its author, if there
    are any, and print it."""
    conclusions = folder / "conclusions.md"
    text = report(outcome)
    if conclusions.is_file():
        text = conclusions.read_text(encoding="utf-8").rstrip() + "\n\n" + text
    with atomic_path(folder / "report.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    with atomic_path(folder / "plot.png") as temporary:
        plot(outcome, temporary)
    print(text)


def collect(output: Path, experiment: Experiment) -> dict[int, dict[str, dict[int, Scored]]]:
    """Read all scores below the folder: steps -> arm, in the order of the experiment -> seed.

    A score that the test did not have, because --options left it out, is NaN. Copies of runs under
    other names are passed over.
    """
    missing = dict.fromkeys(experiment.metrics, math.nan)
    sources = {arm: (arm, "") for arm in experiment.arms}
    if experiment.control:
        sources[CONTROL] = (experiment.control, f"_{CONTROL}")
    number = "(0|[1-9][0-9]*)"  # other names are not ours, e.g. those of copies
    found: dict[int, dict[str, dict[int, Scored]]] = {}
    for arm, (folder, suffix) in sources.items():
        for path in sorted(output.glob(f"{folder}_seed_*/scores{suffix}_*.json")):
            name = path.relative_to(output).as_posix()
            parts = re.fullmatch(rf"{folder}_seed_{number}/scores{suffix}_{number}\.json", name)
            if parts is None:
                continue
            seed, steps = map(int, parts.groups())
            summary, counts = read(path.parent, steps, suffix)
            found.setdefault(steps, {}).setdefault(arm, {})[seed] = missing | summary, counts
    return {steps: found[steps] for steps in sorted(found)}


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: must be between 0 and 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg small_world_experiment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "experiment",
        choices=list(EXPERIMENTS),
        nargs="?",
        default="frozenseg",
        help="which one (default: %(default)s)",
    )
    add("--config-file", type=user_path, help="recipe (default: the experiment's own)")
    add(
        "--output",
        type=user_path,
        help="folder of the runs (default: output/small_world_EXPERIMENT)",
    )
    add("--seeds", type=int, nargs="+", default=list(range(8)), help="seeds (default: 0 to 7)")
    steps = "; ".join(f"{name} {' '.join(map(str, of.steps))}" for name, of in EXPERIMENTS.items())
    add("--steps", type=int, nargs="+", help=f"numbers of steps to score after (default: {steps})")
    add(
        "--cooldown",
        type=_share,
        default=0.0,
        help="share of more steps in which the rate falls, e.g. 0.3 (default: none)",
    )
    add("--arms", nargs="+", help="variants (default: those of the main question)")
    folder = Path("output/small_encoders")
    add("--encoders", type=user_path, default=folder, help="of fusioner (default: %(default)s)")
    add(
        "--hours",
        type=float,
        default=float("inf"),
        help="begin no new run after so many hours (default: no limit)",
    )
    add(
        "--report",
        type=user_path,
        metavar="RESULTS",
        help="write the report of a results.json again",
    )
    add("--options", nargs="*", default=[], metavar="KEY VALUE", help="over the recipe, for all")
    return parser
