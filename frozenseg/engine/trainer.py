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

# In float16 the loss is scaled. If a gradient overflows even at this small scale, it would overflow
# without scaling too, so the scale is not the cause.
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
    """Train until `max_iter` steps are done; returns False if the user has stopped the run before.

    A resumed run starts with the evaluation after its checkpoint if that evaluation is due and the
    earlier run was killed before it was finished.

    network: the model, or DistributedDataParallel around it.
    batches: an endless iterator of this process's micro-batches; a step takes `accumulate` of them.
    schedule: returns the learning rate of a step by its index.
    clip_norm: the maximum norm of all gradients together; None: no clipping.
    log, checkpoints: where the run writes.
    checkpoint_period, evaluation_period: in steps; 0: only at the end.
    evaluate: returns scores by data set and metric; None: nothing is evaluated.
    keep_best: called after an evaluation that is the best so far, while the model still has the
        evaluated weights.
    stop: says whether the user has asked the run to end.
    """
    if evaluate is not None and _due(state.step, evaluation_period) and 0 < state.step < max_iter:
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
            save_checkpoint(state, checkpoints)  # before the evaluation, which may fail
        if evaluate is not None and _due(state.step, evaluation_period) and not last:
            evaluate_now(state, evaluate, log, keep_best, checkpoints)
    checkpoints.prove()  # no further step can prove the last checkpoint
    return True


def loss_normalizers(
    loss: TrainingLoss[Outputs, LossTargets], micro_batches: list[list[Sample]], stopping: bool
) -> tuple[LossNormalizers, bool]:
    """Return the normalizers of a step, and whether any process has been asked to stop.

    Both take a single exchange between the processes.
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
    """Take one step of the optimiser; returns the losses of the entire batch and the gradient norm.

    Raises `UserError` for a loss or a norm that is not finite, before any weight changes. In
    float16, a step whose gradient overflows because of the loss scale is skipped instead.

    micro_batches: the samples of this process, by micro-batch.
    rate: the learning rate.
    clip_norm: as in `train`.
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
                batch = loss.prepare(samples, positions, state.images, state.device)
                outputs = network(batch.images, batch.classes, batch.features)
                losses = _finite_losses(loss, outputs, batch.targets, normalizers, samples, state)
            total = torch.stack([*weighted_losses(losses, loss.weights).values()]).sum()
            # The factor turns DistributedDataParallel's average over the processes into a sum.
            with state.precision.float32_products():
                state.scaler.scale(total * processes).backward()
        for name, value in losses.items():
            summed[name] = summed.get(name, 0) + value.detach()
    _require_gradients(state)
    state.scaler.unscale_(state.optimizer)
    norm = gradient_norm(state.model.parameters(), clip_norm)
    report, length = _report(summed, norm, loss.weights, state, micro_batches)
    state.scaler.step(state.optimizer)  # skips the step if the gradient has overflowed
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
    """Evaluate with the averaged weights if there are any, otherwise with the current ones.

    If the score, the first metric of the first data set, is the best so far, `keep_best` is called
    and the score is saved in a checkpoint, so that a resumed run also compares later scores to it.
    """
    with state.average.applied() if state.average is not None else nullcontext():
        results = evaluate()
        is_best = _is_best(state, results)
        if is_best:
            keep_best()
    if is_best:
        save_checkpoint(state, checkpoints)
    # This is done last, because a resumed run repeats an evaluation that is not in the log.
    log.evaluation(state.step, results)


def _is_best(state: TrainingState, results: Scores) -> bool:
    """Tell whether the first score is the best so far; if it is, store it in `state.best`.

    If the run was resumed with another metric or data set, earlier scores do not count.
    """
    data_set, metrics = next(iter(results.items()), ("", {}))
    if not metrics:
        return False
    metric, score = next(iter(metrics.items()))
    if math.isnan(score):
        return False
    judged = f"{metric} of {data_set}"
    before = state.best.get("metric", judged)
    if before not in (judged, metric):  # older checkpoints hold only the name of the metric
        logger.warning(
            "the best weights so far were chosen by the highest %s, now of %s", before, judged
        )
    elif state.best and score <= state.best["score"]:
        return False
    state.best = {"metric": judged, "score": score, "step": state.step}
    return True


def parallel(model: nn.Module) -> nn.Module:
    """Wrap the model in DistributedDataParallel if there are several processes.

    Only trained parameters are synchronised: frozen ones need no gradient, and buffers never
    change.
    """
    if not torch.distributed.is_initialized():
        return model
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def _gradient_exchange(network: nn.Module, *, now: bool) -> AbstractContextManager[Any]:
    """Let processes exchange gradients only in the last micro-batch of a step."""
    if now or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()


def _require_gradients(state: TrainingState) -> None:
    """Raise `UserError` before the first step if trained parameters get no gradient.

    AdamW would keep no moments for them, so no checkpoint of the run could be read.
    """
    if state.step:
        return
    parameters = state.model.named_parameters()
    without = [name for name, part in parameters if part.requires_grad and part.grad is None]
    if without:
        raise UserError(
            f"{len(without)} trained parameters have no effect on the loss ({listed(without, 2)}); "
            "choose more layers for the decoders, or a loss that depends on these parameters"
        )


def _finite_losses(
    loss: TrainingLoss[Outputs, LossTargets],
    outputs: Outputs,
    targets: LossTargets,
    normalizers: LossNormalizers,
    samples: list[Sample],
    state: TrainingState,
) -> dict[str, Tensor]:
    """Return the losses; raises `UserError` that names the images if outputs are not finite."""
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
    """Return the losses summed over all processes, and the gradient norm, as Python numbers.

    They are copied from the device together. Raises `UserError` for a number that is not finite,
    unless the norm may be infinite because of the loss scale.
    """
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
    """Tell whether the loss scale in float16 may be the cause of an infinite gradient.

    Such a step is skipped and the scale is halved. At a very small scale, the cause must be
    another.
    """
    return state.scaler.is_enabled() and state.scaler.get_scale() > SMALLEST_SCALE


def _not_finite(
    names: list[str], values: list[float], step: int, micro_batches: list[list[Sample]]
) -> str:
    """Return an error message that names the values that are not finite, and the images of the
    processes that have such values. All processes must call this."""
    wrong = [name for name, value in zip(names, values, strict=False) if not math.isfinite(value)]
    samples = [sample for samples in micro_batches for sample in samples] if wrong else []
    gathered = all_gather_json([wrong, [sample.record.image_id for sample in samples]])
    names = sorted({name for wrong, _ in gathered for name in wrong})
    images = ", ".join(str(image) for _, images in gathered for image in images)
    return (
        f"step {step + 1}: {', '.join(names)} not finite for the batch of images {images}; the "
        "step is not taken; try a lower learning rate, or look at these images with "
        "frozenseg view_samples"
    )


def save_checkpoint(state: TrainingState, checkpoints: CheckpointFolder) -> None:
    """Write a checkpoint of the run. All its processes must call this."""
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
    """Add to the message of an error in the `with` block what is left of the run:
    its newest checkpoint.

    to_save_memory: what to do if the memory is too small.
    """
    try:
        yield
    except (UserError, OSError) as error:
        raise UserError(_told(error, state.step, checkpoints)) from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        full = UserError(f"no memory is left: {to_save_memory}")
        raise UserError(_told(full, state.step, checkpoints)) from None


def _told(error: Exception, step: int, checkpoints: CheckpointFolder) -> str:
    """Return a message that says what went wrong and how to continue."""
    paths = checkpoints.readable()
    if not paths:
        return f"{error} (after {step} steps); there is no checkpoint yet: start again"
    told = (
        f"{error} (after {step} steps); the last good checkpoint is {paths[-1]}: continue from it "
        "with --resume"
    )
    if step_of(paths[-1]) == step and len(paths) > 1:  # no step from it has succeeded yet
        told += f" (if it fails there again, delete this file to continue from {paths[-2].name})"
    return told
