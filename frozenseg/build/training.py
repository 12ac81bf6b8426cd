"""`frozenseg.train`: run the training of a configuration, with its evaluations and output files.

The parts of a training are built in `training_data` (the data set), `optimization` (the optimiser
and the schedules) and the module of the model's family (the loss).
"""

import logging
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode

from frozenseg.build.device import compile_encoders, process_device
from frozenseg.build.evaluation import (
    attempt,
    check_expected_results,
    write_evaluations,
    write_so_far,
)
from frozenseg.build.evaluator import EvalDataset, build_evaluator, eval_datasets
from frozenseg.build.models import embed, loaded_model
from frozenseg.build.optimization import (
    check_feature_cache,
    clip_norm_of,
    feature_cache,
    schedule_of,
    training_loss,
    training_state,
)
from frozenseg.build.output_folder import (
    Found,
    only_run,
    refuse_another_run,
    require_same_checkpoint,
    settle_seed,
    take_over,
    write_config,
)
from frozenseg.build.provenance import (
    about_sets,
    frozen_digests,
    log_average,
    log_model,
    nested_settings,
    run_log,
)
from frozenseg.build.training_data import micro_batch_size, training_batches, training_dataset
from frozenseg.build.vocabulary import (
    build_training_vocabulary,
    require_same_order,
    require_seen,
    settle_training_vocabulary,
)
from frozenseg.checkpoints.state_dict import trainable_state, write_state
from frozenseg.checkpoints.training import CheckpointFolder
from frozenseg.data.dataset import SegmentationDataset
from frozenseg.drawing.visualize import draw_segments
from frozenseg.engine.curves import draw_curves
from frozenseg.engine.distributed import is_main
from frozenseg.engine.feature_cache import FeatureCache
from frozenseg.engine.interrupt import GracefulShutdown
from frozenseg.engine.logger import TrainingLog, read_metrics
from frozenseg.engine.state import TrainingState
from frozenseg.engine.trainer import (
    Scores,
    evaluate_now,
    parallel,
    saying_how_to_go_on,
)
from frozenseg.engine.trainer import train as run_steps
from frozenseg.engine.training_loss import TrainingLoss
from frozenseg.errors import WriteError
from frozenseg.evaluation.evaluator import Evaluator, SoFar
from frozenseg.evaluation.runner import Evaluation
from frozenseg.files import atomic_path
from frozenseg.runtime.isolation import on_device, plain_defaults

logger = logging.getLogger(__name__)

WEIGHTS, BEST_WEIGHTS = "model_final.safetensors", "model_best.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The outcome of a training.

    output: the folder of the run, with its configuration, checkpoints, weights and results.
    step: the number of completed steps.
    finished: False if the user stopped the run before its end; it can be resumed.
    weights: the file of the trained weights; None if the run is not finished.
    scores: the scores of the last evaluation in per cent, by data set of DATASETS.TEST.
    """

    output: Path
    step: int
    finished: bool
    weights: Path | None
    scores: dict[str, dict[str, float]]


def train(cfg: CfgNode, resume: bool = False) -> TrainingResult:
    """Train the model of a configuration on DATASETS.TRAIN, and score it on DATASETS.TEST.

    cfg: a configuration, e.g. from `frozenseg.load_config`; it is not changed.
    resume: continue from the newest checkpoint in OUTPUT_DIR; the result is the same as without
    the interruption. Without it, a folder that holds another run is refused.

    Ctrl-C ends the run after the current step, with a checkpoint. One process trains on the device
    of MODEL.DEVICE; `frozenseg train_net` can start several processes. The random stream of torch
    is seeded with SEED. Raises `UserError` for any input that cannot be used, before the first
    step if possible.

    Example:
        >>> options = {"OUTPUT_DIR": "out", "SOLVER.MAX_ITER": 2, "SOLVER.STEPS": (1,)}
        >>> result = frozenseg.train(frozenseg.load_config("recipe.yaml", options))
        >>> result.step, result.finished, str(result.weights)
        (2, True, 'out/model_final.safetensors')
        >>> segmenter = frozenseg.load("out")  # what was trained
    """
    cfg = cfg.clone()
    cfg.defrost()
    output = Path(cfg.OUTPUT_DIR)
    with only_run(output):
        checkpoints = CheckpointFolder(output / "checkpoints", keep=cfg.SOLVER.CHECKPOINT_KEEP)
        if is_main() and not resume:
            refuse_another_run(output, checkpoints)
        device = process_device(cfg)
        with run_log(output), on_device(device), plain_defaults():
            return _started(cfg, device, output, checkpoints, resume).run()


def _started(
    cfg: CfgNode, device: torch.device, output: Path, checkpoints: CheckpointFolder, resume: bool
) -> "_Run":
    resumed = checkpoints.newest() if resume else None
    require_same_checkpoint(output, resumed)
    settle_seed(cfg, resumed[0] if resumed else None)
    settle_training_vocabulary(cfg)
    cfg.freeze()
    torch.manual_seed(cfg.SEED)
    if is_main():
        take_over(output, checkpoints, resumed, resume, cfg.SOLVER.MAX_ITER)
    return _prepare(cfg, device, checkpoints, resumed)


@dataclass
class _Run:
    """A training that is ready to begin or to be resumed.

    cache: the cache of the frozen encoders' features, or None.
    sets: the data sets of DATASETS.TEST.
    frozen: the digests of the frozen encoders' weights.
    evaluator: None without DATASETS.TEST.
    latest: the last evaluation of each data set.
    """

    cfg: CfgNode
    output: Path
    checkpoints: CheckpointFolder
    dataset: SegmentationDataset
    state: TrainingState
    loss: TrainingLoss[Any, Any]
    cache: FeatureCache | None
    sets: list[EvalDataset]
    frozen: dict[str, str]
    evaluator: Evaluator | None
    log: TrainingLog
    latest: dict[str, Evaluation] = field(default_factory=dict)

    def run(self) -> TrainingResult:
        finished = self._train()
        if self.cache is not None and is_main():
            hits, misses = self.cache.hits, self.cache.misses
            logger.info("features: %d from %s, %d encoded", hits, self.cache.folder, misses)
        if finished:
            self._finish()
        elif is_main():
            step = self.state.step
            logger.info("stopped after step %d; the same command with --resume continues", step)
        return TrainingResult(
            output=self.output,
            step=self.state.step,
            finished=finished,
            weights=self.output / WEIGHTS if finished else None,
            scores=self._scores(),
        )

    def _train(self) -> bool:
        """Take the remaining steps; return False if the user stopped the run before the last."""
        cfg, solver, stop = self.cfg, self.cfg.SOLVER, GracefulShutdown()
        more = f"raise SOLVER.ACCUMULATE (now {solver.ACCUMULATE}): each pass takes fewer images"
        guard = saying_how_to_go_on(self.state, self.checkpoints, to_save_memory=more)
        with stop.listening(), guard:
            return run_steps(
                state=self.state,
                network=parallel(self.state.model),
                batches=iter(training_batches(cfg, self.dataset, self.state.images)),
                loss=self.loss,
                schedule=schedule_of(cfg),
                max_iter=solver.MAX_ITER,
                accumulate=solver.ACCUMULATE,
                clip_norm=clip_norm_of(cfg),
                log=self.log,
                checkpoints=self.checkpoints,
                checkpoint_period=solver.CHECKPOINT_PERIOD,
                evaluate=self._evaluate if self.evaluator is not None else None,
                evaluation_period=cfg.TEST.EVAL_PERIOD,
                keep_best=self._keep_best,
                stop=stop,
            )

    def _finish(self) -> None:
        """Evaluate a last time and write the files of a finished run.

        The weights are written first, so that they exist even if the evaluation fails.
        """
        failures: list[str] = []
        less = "set TEST.IMS_PER_BATCH 1, or a smaller INPUT.MIN_SIZE_TEST"
        with saying_how_to_go_on(self.state, self.checkpoints, to_save_memory=less):
            if is_main():
                attempt([self._write_weights], failures)
            about = about_sets(
                self.cfg,
                self.sets,
                self.state.precision,
                weights="" if failures else str(self.output / WEIGHTS),
                frozen=self.frozen,
            )
            if self.evaluator is not None:
                evaluate = partial(self._evaluate, partial(write_so_far, self.output, about))
                evaluate_now(self.state, evaluate, self.log, self._keep_best, self.checkpoints)
                # The evaluation may have found a new best: delete the replaced checkpoints.
                self.checkpoints.prove()
            self.log.close()
            rows = {self.output.name: read_metrics(self.log.path)}
            curves = partial(draw_curves, rows, self.output / "curves.png")
            write_evaluations(self.cfg, self.latest, self.output, about, [curves], failures)

    def _evaluate(self, so_far: SoFar | None = None) -> Scores:
        assert self.evaluator is not None, "there are sets to evaluate"
        self.latest.update(self.evaluator.evaluate(so_far))
        if is_main():
            self._draw(self.evaluator)
        return self._scores()

    def _scores(self) -> Scores:
        return {name: evaluation.summary for name, evaluation in self.latest.items()}

    def _draw(self, evaluator: Evaluator) -> None:
        """Draw the results of the first LOG.PICTURES images of the first set, always the same."""
        if not self.cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON:
            return
        step = self.state.step
        for index, (image, panoptic) in enumerate(evaluator.previews(self.cfg.LOG.PICTURES)):
            picture = draw_segments(image, panoptic.ids, panoptic.segments).convert("RGB")
            path = self.output / "pictures" / f"{index}_step_{step:08d}.jpg"
            try:
                with atomic_path(path) as temporary:
                    picture.save(temporary, quality=85)
            except WriteError as error:  # the run continues without its pictures
                logger.warning("picture: %s", error)
            self.log.picture(step, f"prediction_{index}", np.asarray(picture))

    def _keep_best(self) -> None:
        if is_main():
            write_state(self.output / BEST_WEIGHTS, trainable_state(self.state.model))

    def _write_weights(self) -> None:
        """Write the weights of the trained parts, or their moving average if there is one."""
        average = self.state.average
        with average.applied() if average is not None else nullcontext():
            write_state(self.output / WEIGHTS, trainable_state(self.state.model))


def _prepare(
    cfg: CfgNode, device: torch.device, checkpoints: CheckpointFolder, resumed: Found | None
) -> _Run:
    """Build all parts of a run; quick checks come before parts that are slow to build."""
    micro_batch_size(cfg)
    schedule_of(cfg)
    check_feature_cache(cfg)
    dataset, vocabulary = training_dataset(cfg)
    require_seen(cfg, vocabulary)
    if resumed is not None:
        require_same_order(cfg, vocabulary)
    sets = eval_datasets(cfg) if cfg.DATASETS.TEST else []
    model = loaded_model(cfg, device, training=True).train()
    frozen = frozen_digests(cfg, model) if sets else {}
    compile_encoders(cfg, model)
    state = training_state(cfg, model)
    log_model(cfg, model, state.precision)
    log_average(cfg)
    text = embed(cfg, model, vocabulary, build_training_vocabulary(cfg))
    cache = feature_cache(cfg, model, state.precision)
    loss = training_loss(cfg, model, text, cache)
    if resumed is not None:
        state.restore(resumed[0], f"checkpoint {resumed[1]}")
    output = Path(cfg.OUTPUT_DIR)
    log = _build_log(cfg, output, state.step)
    evaluator = build_evaluator(cfg, model, sets)
    check_expected_results(cfg, evaluator.sets)
    if is_main():
        write_config(cfg, output)
    return _Run(
        cfg=cfg,
        output=output,
        checkpoints=checkpoints,
        dataset=dataset,
        state=state,
        loss=loss,
        cache=cache,
        sets=sets,
        frozen=frozen,
        evaluator=evaluator if sets else None,
        log=log,
    )


def _build_log(cfg: CfgNode, output: Path, start_step: int) -> TrainingLog:
    return TrainingLog(
        output,
        total_steps=cfg.SOLVER.MAX_ITER,
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        period=cfg.LOG.PERIOD,
        start_step=start_step,
        active=is_main(),
        tensorboard=cfg.LOG.TENSORBOARD,
        wandb_project=cfg.LOG.WANDB,
        settings=nested_settings(cfg),
    )
