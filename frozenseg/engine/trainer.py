"""The training loop."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from frozenseg.checkpoints.training import CheckpointFolder, step_of
from frozenseg.data.dataset import Sample
from frozenseg.engine.distributed import all_gather_json, all_sum, is_main, rank, world_size
from frozenseg.engine.interrupt import GracefulShutdown
from frozenseg.engine.logger import TrainingLog
from frozenseg.engine.optim import gradient_norm, set_learning_rate, set_weight_decay
from frozenseg.engine.state import TrainingState
from frozenseg.engine.training_loss import LossNormalizers, LossTargets, Outputs, TrainingLoss
from frozenseg.errors import UserError, listed
from frozenseg.losses.weighting import weighted_losses
from frozenseg.runtime.memory import is_out_of_memory

logger = logging.getLogger(__name__)

Scores = dict[str, dict[str, float]]

# Of the loss in float16. A gradient that overflows even so does so without a scale, too.
SMALLEST_SCALE = 2.0**-10


def train(
    *,
    state: TrainingState,
    network: nn.Module,
    batches: Iterator[list[Sample]],
    loss: TrainingLoss[Outputs, LossTargets],
    schedule: Callable[[int], float],
    max_iter: int,
    accumulate: int,
    clip_norm: float | None,
    log: TrainingLog,
    checkpoints: CheckpointFolder,
    checkpoint_period: int,
    evaluate: Callable[[], Scores] | None,
    evaluation_period: int,
    keep_best: Callable[[], object],
    stop: GracefulShutdown,
) -> bool:
    """Train until `max_iter` steps are done; returns False if the user has stopped it before.

    network: the model, or DistributedDataParallel around it.
    batches: micro-batches of this process without end; a step takes `accumulate` of them.
    schedule: the learning rate of each step.
    clip_norm: the largest norm of all gradients together; None: no clipping.
    log, checkpoints: where the run writes.
    checkpoint_period, evaluation_period: in steps; 0: only at the end.
    evaluate: returns scores by data set.
    keep_best: called after the best evaluation so far, while the model has the evaluated weights.

    A resumed run first makes the evaluation of its step if a killed one has not.
    """
    if evaluate is not None and _due(state.step, evaluation_period) and state.step < max_iter:
        if all_gather_json(is_main() and log.lacks_evaluation(state.step))[0]:
            evaluate_now(state, evaluate, log, keep_best, checkpoints)
    while state.step < max_iter:
        micro_batches = list(islice(batches, accumulate))
        log.data_ready()
        normalizers, stopping = loss_normalizers(loss, micro_batches, stop.requested)
        if stopping:
            save_checkpoint(state, checkpoints)
            return False
        rate = schedule(state.step)
        losses, norm = training_step(
            state, network, loss, micro_batches, normalizers, rate=rate, clip_norm=clip_norm
        )
        checkpoints.prove()
        log.step(state.step, losses, {"lr": rate, "grad_norm": norm})
        last = state.step == max_iter
        if last or _due(state.step, checkpoint_period):
            save_checkpoint(state, checkpoints)  # first: an evaluation may fail, or be killed
        if evaluate is not None and _due(state.step, evaluation_period) and not last:
            evaluate_now(state, evaluate, log, keep_best, checkpoints)
    checkpoints.prove()  # no step follows that could show it bad
    return True


def loss_normalizers(
    loss: TrainingLoss[Outputs, LossTargets], micro_batches: list[list[Sample]], stopping: bool
) -> tuple[LossNormalizers, bool]:
    """Return the normalizers of a step, and whether any process has been asked to stop.

    One exchange between the processes serves both.
    """
    mine = sum(map(loss.normalizers, micro_batches), LossNormalizers())
    values = torch.tensor([*astuple(mine), float(stopping)], dtype=torch.float64)
    *sums, stops = all_sum(values).tolist()
    return LossNormalizers(*sums), stops > 0


def training_step(
    state: TrainingState,
    network: nn.Module,
    loss: TrainingLoss[Outputs, LossTargets],
    micro_batches: list[list[Sample]],
    normalizers: LossNormalizers,
    *,
    rate: float,
    clip_norm: float | None,
) -> tuple[dict[str, float], float]:
    """One step of the optimiser; returns the losses of the whole batch and the gradient's norm.

    A loss or a norm that is not a finite number is a `UserError`, raised before any weight changes.
    """
    set_learning_rate(state.optimizer, rate)
    if state.decay is not None:
        set_weight_decay(state.optimizer, state.decay(state.step))
    state.optimizer.zero_grad(set_to_none=True)
    processes = world_size()
    summed: dict[str, Tensor] = {}
    position = state.images + rank()
    for number, samples in enumerate(micro_batches):
        positions = [position + processes * index for index in range(len(samples))]
        position += processes * len(samples)
        with _gradient_exchange(network, now=number == len(micro_batches) - 1):
            with state.precision.autocast():
                batch = loss.prepare(samples, positions, state.device)
                outputs = network(batch.images, batch.classes, batch.features)
                losses = _finite_losses(loss, outputs, batch.targets, normalizers, samples, state)
            total = torch.stack([*weighted_losses(losses, loss.weights).values()]).sum()
            # DistributedDataParallel averages gradients over the processes; theirs add up.
            with state.precision.float32_products():
                state.scaler.scale(total * processes).backward()
        for name, value in losses.items():
            summed[name] = summed.get(name, 0) + value.detach()
    _require_gradients(state)
    state.scaler.unscale_(state.optimizer)
    norm = gradient_norm(state.model.parameters(), clip_norm)
    report, length = _report(summed, norm, loss.weights, state, micro_batches)
    state.scaler.step(state.optimizer)  # which leaves out a step whose gradient has overflowed
    state.scaler.update()
    if state.average is not None:
        state.average.update()
    state.step += 1
    state.images += processes * sum(len(samples) for samples in micro_batches)
    return report, length


def evaluate_now(
    state: TrainingState,
    evaluate: Callable[[], Scores],
    log: TrainingLog,
    keep_best: Callable[[], object],
    checkpoints: CheckpointFolder,
) -> None:
    """Evaluate with the averaged weights, if there are any. If the result is the best so far,
    judged by the first metric of the first data set, it is noted in a checkpoint: later ones, also
    of a run that is resumed, have to beat it."""
    with state.average.applied() if state.average is not None else nullcontext():
        results = evaluate()
        is_best = _is_best(state, results)
        if is_best:
            keep_best()
    if is_best:
        save_checkpoint(state, checkpoints)
    log.evaluation(state.step, results)  # last: without it, a resumed run evaluates again


def _is_best(state: TrainingState, results: Scores) -> bool:
    """Whether the first score is the best so far; one of another metric or data set, from before
    the run was resumed with other ones, does not count."""
    data_set, metrics = next(iter(results.items()), ("", {}))
    if not metrics:
        return False
    metric, score = next(iter(metrics.items()))
    if math.isnan(score):
        return False
    judged = f"{metric} of {data_set}"
    before = state.best.get("metric", judged)
    if before not in (judged, metric):  # a checkpoint from before has the metric alone
        logger.warning("the best weights were those of the highest %s, now of %s", before, judged)
    elif state.best and score <= state.best["score"]:
        return False
    state.best = {"metric": judged, "score": score, "step": state.step}
    return True


def parallel(model: nn.Module) -> nn.Module:
    """Return the model, in a run of several processes with gradients averaged over them.

    Only trained parameters take part: frozen ones need no gradient, and no buffer ever changes.
    """
    if not torch.distributed.is_initialized():
        return model
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def _gradient_exchange(network: nn.Module, *, now: bool) -> AbstractContextManager[Any]:
    """Let processes exchange gradients in the last micro-batch of a step only."""
    if now or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()


def _require_gradients(state: TrainingState) -> None:
    """Refuse parameters that nothing would train. AdamW would keep no moments of them, and no
    checkpoint of the run could be read."""
    if state.step:
        return
    parameters = state.model.named_parameters()
    without = [name for name, part in parameters if part.requires_grad and part.grad is None]
    if without:
        raise UserError(
            f"{len(without)} trained parameters have no part in the loss ({listed(without, 2)}); "
            "choose more layers for the decoders, or a loss that depends on them"
        )


def _finite_losses(
    loss: TrainingLoss[Outputs, LossTargets],
    outputs: Outputs,
    targets: LossTargets,
    normalizers: LossNormalizers,
    samples: list[Sample],
    state: TrainingState,
) -> dict[str, Tensor]:
    """Return the losses; outputs that are not finite are an error that names the images."""
    try:
        return loss(outputs, targets, normalizers)
    except FloatingPointError as error:
        images = ", ".join(str(sample.record.image_id) for sample in samples)
        raise UserError(f"step {state.step + 1}: batch of images {images}: {error}") from None


def _report(
    summed: dict[str, Tensor],
    norm: Tensor,
    weights: Mapping[str, float],
    state: TrainingState,
    micro_batches: list[list[Sample]],
) -> tuple[dict[str, float], float]:
    """Return the losses of all processes and the norm of the gradient as numbers, in one copy from
    the device; a number that is not finite ends the run."""
    mine = torch.stack([*(value.float() for value in summed.values()), norm.float()]).cpu()
    *values, norms = all_sum(mine.clone()).tolist()
    losses = dict(zip(summed, values, strict=True))
    total = sum(weighted_losses(losses, weights).values())
    if not math.isfinite(total):
        raise UserError(_not_finite([*summed], mine.tolist(), state.step, micro_batches))
    if not math.isfinite(norms) and not _may_overflow(state):
        raise UserError(_not_finite(["gradient"], [math.nan], state.step, micro_batches))
    return {"total_loss": total, **losses}, float(mine[-1])


def _may_overflow(state: TrainingState) -> bool:
    """Whether an infinite gradient may be due to the scale of the loss in float16: the step is then
    left out and the scale halved. At a scale near nothing there must be another cause."""
    return state.scaler.is_enabled() and state.scaler.get_scale() > SMALLEST_SCALE


def _not_finite(
    names: list[str], values: list[float], step: int, micro_batches: list[list[Sample]]
) -> str:
    """Return a message with the names of the values that are not finite, and the images of all
    processes that have one."""
    wrong = [name for name, value in zip(names, values, strict=False) if not math.isfinite(value)]
    samples = [sample for samples in micro_batches for sample in samples] if wrong else []
    gathered = all_gather_json([wrong, [sample.record.image_id for sample in samples]])
    names = sorted({name for wrong, _ in gathered for name in wrong})
    images = ", ".join(str(image) for _, images in gathered for image in images)
    return (
        f"step {step + 1}: {', '.join(names)} not finite for the batch of images {images}, the "
        "step is not taken; try a lower learning rate, or look at these images with "
        "frozenseg view_samples"
    )


def save_checkpoint(state: TrainingState, checkpoints: CheckpointFolder) -> None:
    """Write the state of a run. All its processes have to call this."""
    checkpoint = state.checkpoint()
    if is_main():
        path = checkpoints.save(checkpoint)
        logger.info("step %d: checkpoint %s", state.step, path)


def _due(step: int, period: int) -> bool:
    return period > 0 and step % period == 0


@contextmanager
def saying_how_to_go_on(
    state: TrainingState, checkpoints: CheckpointFolder, *, to_save_memory: str
) -> Iterator[None]:
    """Make an error inside say what is left of the run as well: its newest checkpoint.

    to_save_memory: what to do if the memory is too small.
    """
    try:
        yield
    except (UserError, OSError) as error:
        raise UserError(_told(error, state.step, checkpoints)) from None
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        full = UserError(f"no memory is left: {to_save_memory}")
        raise UserError(_told(full, state.step, checkpoints)) from None


def _told(error: Exception, step: int, checkpoints: CheckpointFolder) -> str:
    """Return what went wrong, and how to go on."""
    paths = checkpoints.paths()
    if not paths:
        return f"{error} (after {step} steps); there is no checkpoint yet: start again"
    told = (
        f"{error} (after {step} steps); the last good checkpoint is {paths[-1]}: go on from it "
        "with --resume"
    )
    if step_of(paths[-1]) == step and len(paths) > 1:  # no step has been taken from it yet
        told += f" (should it fail there again: without that file, from {paths[-2].name})"
    return told
