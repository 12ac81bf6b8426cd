"""`frozenseg.evaluate`: score the model of a configuration on every set of DATASETS.TEST."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from fvcore.common.config import CfgNode

from frozenseg.build.device import prepare_for_inference, process_device
from frozenseg.build.evaluator import build_evaluator, eval_datasets
from frozenseg.build.expected_results import check_expected, differences, expected_result
from frozenseg.build.models import loaded_model
from frozenseg.build.output_folder import only_run, settle_seed
from frozenseg.build.run_folder import evaluation_weights
from frozenseg.build.setting import require_weights, setting
from frozenseg.engine.distributed import is_main
from frozenseg.errors import WriteError
from frozenseg.evaluation.evaluator import Evaluator
from frozenseg.evaluation.runner import Evaluation, table, write_results
from frozenseg.files import check_writable

logger = logging.getLogger(__name__)

RESULTS = "results.json"


def evaluate(cfg: CfgNode, *, weights: str | Path | None = None) -> dict[str, dict[str, float]]:
    """Score a model on every set of DATASETS.TEST; returns the scores in per cent, by data set.

    cfg: a configuration, e.g. from `frozenseg.load_config`; it is not changed. weights: the
    checkpoint to score. Without it, that is what a training with this configuration has left in
    OUTPUT_DIR, else MODEL.WEIGHTS. All numbers are written to OUTPUT_DIR/results.json.

    Raises `UserError` for a data set or weights that cannot be used, before the first image.

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
        return _evaluate(cfg, output)


def _evaluate(cfg: CfgNode, output: Path) -> dict[str, dict[str, float]]:
    require_weights(cfg)
    sets = eval_datasets(cfg)
    model = loaded_model(cfg, process_device(cfg))
    prepare_for_inference(cfg, model)
    evaluator = build_evaluator(cfg, model, sets)
    check_expected_results(cfg, evaluator)
    if is_main():
        check_writable(output / RESULTS)
    evaluations = evaluator.evaluate()
    write_evaluations(cfg, evaluations, output)
    return {name: evaluation.summary for name, evaluation in evaluations.items()}


def check_expected_results(cfg: CfgNode, evaluator: Evaluator) -> None:
    """Check TEST.EXPECTED_RESULTS before anything is computed."""
    with setting("TEST.EXPECTED_RESULTS"):
        check_expected(map(expected_result, cfg.TEST.EXPECTED_RESULTS), evaluator.metrics)


def unexpected_results(cfg: CfgNode, scores: Mapping[str, dict[str, float]]) -> list[str]:
    """List the differences from TEST.EXPECTED_RESULTS, one line each."""
    return differences(scores, map(expected_result, cfg.TEST.EXPECTED_RESULTS))


def write_evaluations(
    cfg: CfgNode,
    evaluations: Mapping[str, Evaluation],
    output: Path,
    more: Sequence[Callable[[], object]] = (),
) -> None:
    """Log the results and write them to disk, on the first process alone.

    more: functions that write other files. If one file cannot be written, the others still are.
    """
    if not is_main():
        return
    writes = list(more)
    if evaluations:
        logger.info("%s", table(evaluations))
        writes.insert(0, partial(write_results, output / RESULTS, evaluations))
    scores = {name: evaluation.summary for name, evaluation in evaluations.items()}
    for line in unexpected_results(cfg, scores):
        logger.error("not as expected: %s", line)
    _all_of(writes)
    if evaluations:
        logger.info("written to %s", output / RESULTS)


def _all_of(writes: Sequence[Callable[[], object]]) -> None:
    """Call all, and raise one `WriteError` at the end for the files that could not be written."""
    failures = []
    for write in writes:
        try:
            write()
        except WriteError as error:
            failures.append(str(error))
    if failures:
        raise WriteError("; ".join(failures))
