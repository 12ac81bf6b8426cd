"""`frozenseg.evaluate`: score the model of a configuration on every set of DATASETS.TEST."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from frozenseg.build.device import build_precision, prepare_for_inference, process_device
from frozenseg.build.evaluator import EvalDataset, build_evaluator, build_scoring, eval_datasets
from frozenseg.build.expected_results import check_expected, differences, expected_result
from frozenseg.build.models import loaded_model
from frozenseg.build.output_folder import (
    SCORES,
    SCORES_SO_FAR,
    only_run,
    settle_seed,
    write_eval_config,
)
from frozenseg.build.provenance import about_sets, frozen_digests, log_model, run_log
from frozenseg.build.run_folder import evaluation_weights
from frozenseg.build.setting import require_weights, setting
from frozenseg.data.prediction_lines import Part
from frozenseg.engine.distributed import is_main
from frozenseg.errors import UserError, WriteError
from frozenseg.evaluation.evaluator import Evaluator, Scoring
from frozenseg.evaluation.results_file import table, write_results
from frozenseg.evaluation.runner import Evaluation, Share
from frozenseg.files import check_writable
from frozenseg.runtime.isolation import on_device, plain_defaults

logger = logging.getLogger(__name__)

About = Mapping[str, Mapping[str, Any]]
"""The entries of results.json for each data set besides its scores; see `about_sets`."""
Found = tuple[dict[str, Share], About]
Spread = Callable[[Callable[[Part], Found]], list[Found]]
"""Calls a picklable function for each part of the images, e.g. on other machines, and returns the
results."""


def evaluate(
    cfg: CfgNode, *, weights: str | Path | None = None, spread: Spread | None = None
) -> dict[str, dict[str, float]]:
    """Score a model on every set of DATASETS.TEST; return the scores in per cent, by data set.

    cfg: a configuration, e.g. from `frozenseg.load_config`; it is not changed.
    weights: the checkpoint to score. Without it, the weights that a training with this
    configuration has written to OUTPUT_DIR are scored, or MODEL.WEIGHTS if there are none.
    spread: distributes the images, e.g. to the machines of a cluster; None: this process scores
    them all.

    In OUTPUT_DIR, all scores are written to results.json and the configuration to config_eval.yaml,
    and the log is appended to log.txt. Raises `UserError` for a data set or weights that cannot be
    used, before the first image.

    Example:
        >>> cfg = frozenseg.load_config("recipe.yaml", ["OUTPUT_DIR", "scored"])
        >>> scores = frozenseg.evaluate(cfg)
        >>> all("PQ" in found for found in scores.values())
        True
    """
    cfg = cfg.clone()
    cfg.defrost()
    output = Path(cfg.OUTPUT_DIR)
    with only_run(output):
        settle_seed(cfg, None)
        if weights is None:
            weights = evaluation_weights(
                cfg.MODEL.WEIGHTS, config=None, options=(), output=cfg.OUTPUT_DIR
            )
        cfg.MODEL.WEIGHTS = str(weights)
        cfg.freeze()
        with run_log(output), plain_defaults():
            return _evaluate(cfg, output, spread)


def _evaluate(cfg: CfgNode, output: Path, spread: Spread | None) -> dict[str, dict[str, float]]:
    require_weights(cfg)
    sets = eval_datasets(cfg)
    if spread is None:
        with on_device(process_device(cfg)):
            evaluator, about = _evaluator(cfg, sets)
            _begin(cfg, output, evaluator.sets)
            evaluations = evaluator.evaluate(partial(write_so_far, output, about))
    else:
        scorings = [build_scoring(cfg, entry) for entry in sets]
        _begin(cfg, output, scorings)
        for entry in scorings:
            entry.clear()
        shares, about = _one_model(spread(partial(evaluate_part, cfg)))
        evaluations = {
            entry.name: entry.evaluation([share[entry.name] for share in shares])
            for entry in scorings
        }
    write_evaluations(cfg, evaluations, output, about)
    return {name: evaluation.summary for name, evaluation in evaluations.items()}


def _evaluator(
    cfg: CfgNode, sets: list[EvalDataset], part: Part | None = None
) -> tuple[Evaluator, About]:
    device = process_device(cfg)
    model, precision = loaded_model(cfg, device), build_precision(cfg, device)
    log_model(cfg, model, precision)
    frozen = frozen_digests(cfg, model)
    prepare_for_inference(cfg, model)
    evaluator = build_evaluator(cfg, model, sets, part)
    return evaluator, about_sets(cfg, sets, precision, weights=cfg.MODEL.WEIGHTS, frozen=frozen)


def _begin(cfg: CfgNode, output: Path, sets: Sequence[Scoring]) -> None:
    check_expected_results(cfg, sets)
    if is_main():
        check_writable(output / SCORES)
        write_eval_config(cfg, output)


def evaluate_part(cfg: CfgNode, part: Part) -> Found:
    """Score a part of the images of every set; return the shares of the scores, and `About`.

    No scores are written.
    """
    with on_device(process_device(cfg)):
        evaluator, about = _evaluator(cfg, eval_datasets(cfg), part)
        return evaluator.shares(), about


def _one_model(parts: Sequence[Found]) -> tuple[list[dict[str, Share]], About]:
    """Check that the same model, code and data were used for all parts."""
    about = parts[0][1]
    for _, other in parts:
        for name, entry in other.items():
            one, two = about[name]["provenance"], entry["provenance"]
            for key in ("weights", "precision", "code", "versions", "data"):
                if one[key] != two[key]:
                    raise UserError(
                        f"{name}: two machines differ in their {key} ({one[key]}, {two[key]}); "
                        "use the same on both"
                    )
    return [shares for shares, _ in parts], about


def write_so_far(output: Path, about: About, evaluations: Mapping[str, Evaluation]) -> None:
    """Write the scores of the finished sets, so that they are kept if a later set fails."""
    if is_main():
        try:
            write_results(output / SCORES_SO_FAR, evaluations, about)
        except WriteError as error:
            logger.warning("%s", error)


def check_expected_results(cfg: CfgNode, sets: Sequence[Scoring]) -> None:
    """Check TEST.EXPECTED_RESULTS before anything is computed."""
    metrics = {
        entry.name: [name for task in entry.tasks.values() for name in task.names] for entry in sets
    }
    with setting("TEST.EXPECTED_RESULTS"):
        check_expected(map(expected_result, cfg.TEST.EXPECTED_RESULTS), metrics)


def unexpected_results(cfg: CfgNode, scores: Mapping[str, dict[str, float]]) -> list[str]:
    """List the differences from TEST.EXPECTED_RESULTS, one line each."""
    return differences(scores, map(expected_result, cfg.TEST.EXPECTED_RESULTS))


def write_evaluations(
    cfg: CfgNode,
    evaluations: Mapping[str, Evaluation],
    output: Path,
    about: About,
    more: Sequence[Callable[[], object]] = (),
    failures: Sequence[str] = (),
) -> None:
    """Log the results and write them to disk, on the first process only.

    about: from `about_sets`. more: functions that write further files. failures: messages about
    files that could not be written earlier. If a file cannot be written, the others are written
    nevertheless, and a single `WriteError` at the end names all failures.
    """
    if not is_main():
        return
    writes = list(more)
    if evaluations:
        logger.info("%s", table(evaluations))
        writes.insert(0, partial(_write_scores, output, evaluations, about))
    scores = {name: evaluation.summary for name, evaluation in evaluations.items()}
    for line in unexpected_results(cfg, scores):
        logger.error("not as expected: %s", line)
    failed = [*failures]
    attempt(writes, failed)
    if failed:
        raise WriteError("; ".join(failed))
    if evaluations:
        logger.info("written to %s", output / SCORES)


def _write_scores(output: Path, evaluations: Mapping[str, Evaluation], about: About) -> None:
    write_results(output / SCORES, evaluations, about)
    (output / SCORES_SO_FAR).unlink(missing_ok=True)


def attempt(writes: Sequence[Callable[[], object]], failures: list[str]) -> None:
    """Call all functions; add the messages about files that cannot be written to `failures`."""
    for write in writes:
        try:
            write()
        except WriteError as error:
            failures.append(str(error))
