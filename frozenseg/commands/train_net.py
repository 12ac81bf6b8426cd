"""Train a model, or evaluate it on every set of DATASETS.TEST (--eval-only)."""

import argparse
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from frozenseg.build.evaluation import Evaluator, eval_datasets
from frozenseg.build.expected_results import Expected, differences, expected_results
from frozenseg.build.models import (
    build_device,
    compile_encoders,
    prepare_for_inference,
)
from frozenseg.build.output_folder import (
    Found,
    check_places,
    clean,
    refuse_another_run,
    say_what_was_found,
    write_config,
)
from frozenseg.build.run_folder import evaluation_weights
from frozenseg.build.training import (
    check_feature_cache,
    checkpoint_folder,
    clip_norm_of,
    embed,
    feature_cache,
    loaded_model,
    micro_batch_size,
    schedule_of,
    training_batches,
    training_dataset,
    training_loss,
    training_state,
)
from frozenseg.build.vocabulary import build_training_vocabulary, settle_training_vocabulary
from frozenseg.checkpoints.schema import TrainingCheckpoint
from frozenseg.checkpoints.state_dict import trainable_state, write_state
from frozenseg.checkpoints.training import CheckpointFolder
from frozenseg.commands.precision_argument import add_precision, precision_options
from frozenseg.config import load_config
from frozenseg.engine.curves import draw_curves
from frozenseg.engine.distributed import (
    INTERRUPTED,
    LaunchConfig,
    all_gather_json,
    barrier,
    is_main,
    launch,
    local_rank,
)
from frozenseg.engine.interrupt import GracefulShutdown
from frozenseg.engine.lock import only_writer
from frozenseg.engine.logger import TrainingLog
from frozenseg.engine.state import TrainingState
from frozenseg.engine.trainer import (
    Scores,
    evaluate_now,
    parallel,
    saying_how_to_go_on,
    train,
)
from frozenseg.errors import UserError, WriteError
from frozenseg.evaluation.runner import Evaluation, table, write_results
from frozenseg.files import check_writable

logger = logging.getLogger(__name__)

RESULTS, WEIGHTS = "results.json", "model_final.safetensors"


@dataclass(frozen=True)
class Request:
    """What the command line asks for, in a form that goes to other processes."""

    config: str | None
    options: list[str]
    resume: bool
    eval_only: bool


def main(argv: list[str]) -> int | None:
    arguments = argument_parser("train_net", __doc__ or "").parse_intermixed_args(argv)
    request = Request(
        config=arguments.config_file,
        options=[*precision_options(arguments), *arguments.opts, *arguments.options],
        resume=arguments.resume,
        eval_only=arguments.eval_only,
    )
    cfg = load_config(request.config, request.options)  # errors are known before any process starts
    on_gpus = build_device(cfg).type == "cuda"
    if on_gpus and arguments.num_gpus > torch.cuda.device_count():
        raise UserError(
            f"--num-gpus {arguments.num_gpus}: there are {torch.cuda.device_count()} here; "
            "for processes on the CPU add MODEL.DEVICE cpu"
        )
    layout = LaunchConfig(
        processes=arguments.num_gpus,
        machines=arguments.num_machines,
        machine=arguments.machine_rank,
        url=arguments.dist_url,
        backend="cpu:gloo,cuda:nccl" if on_gpus else "gloo",
    )
    return launch(work, request, layout)


def work(request: Request) -> int:
    """The whole job of one process; the exit status."""
    cfg = load_config(request.config, request.options, freeze=False)
    output = Path(cfg.OUTPUT_DIR)
    with only_writer(output) if is_main() else nullcontext():
        barrier()  # no process looks into the folder before it is this run's
        if request.eval_only:
            _settle_seed(cfg, None)
            cfg.MODEL.WEIGHTS = evaluation_weights(
                cfg.MODEL.WEIGHTS,
                config=request.config,
                options=request.options,
                output=cfg.OUTPUT_DIR,
            )
            cfg.freeze()
            return _evaluate_only(cfg, _device(cfg), output)
        checkpoints = CheckpointFolder(checkpoint_folder(cfg), keep=cfg.SOLVER.CHECKPOINT_KEEP)
        resumed = checkpoints.newest() if request.resume else None
        _settle_seed(cfg, resumed[0] if resumed else None)
        settle_training_vocabulary(cfg)
        cfg.freeze()
        torch.manual_seed(cfg.SEED)
        device = _device(cfg)
        if is_main():
            _take_over(output, checkpoints, resumed, request.resume, cfg.SOLVER.MAX_ITER)
        return _train(cfg, device, output, checkpoints, resumed)


def _device(cfg: CfgNode) -> torch.device:
    device = build_device(cfg)
    return torch.device("cuda", local_rank()) if device.type == "cuda" else device


def _take_over(
    output: Path,
    checkpoints: CheckpointFolder,
    resumed: Found | None,
    resume: bool,
    max_iter: int,
) -> None:
    """Make the folder this run's, or refuse it."""
    if resume:
        say_what_was_found(resumed, output, checkpoints, max_iter)
    else:
        refuse_another_run(output, checkpoints)
    clean(output, checkpoints)
    check_places(output, checkpoints)


def _train(
    cfg: CfgNode,
    device: torch.device,
    output: Path,
    checkpoints: CheckpointFolder,
    resumed: Found | None,
) -> int:
    micro_batch_size(cfg)  # whether the batch can be shared, before anything slow
    schedule = schedule_of(cfg)
    check_feature_cache(cfg)
    dataset, vocabulary = training_dataset(cfg)
    sets = eval_datasets(cfg) if cfg.DATASETS.TEST else []
    model = loaded_model(cfg, device).train()
    compile_encoders(cfg, model)
    state = training_state(cfg, model)
    text = embed(cfg, model, vocabulary, build_training_vocabulary(cfg))
    cache = feature_cache(cfg, model, state.precision)
    loss = training_loss(cfg, model, text, cache)
    if resumed is not None:
        state.restore(resumed[0], f"checkpoint {resumed[1]}")
    log = _log(cfg, output, state.step)
    tester = Evaluator.prepare(cfg, model, sets)
    expected = expected_results(cfg.TEST.EXPECTED_RESULTS, tester.metrics)
    if is_main():
        write_config(cfg, output)
    stop = GracefulShutdown()
    solver = cfg.SOLVER
    latest: dict[str, Evaluation] = {}

    def evaluation() -> Scores:
        latest.update(tester.evaluate())
        if is_main():
            tester.draw(state.step, log)
        return {name: found.summary for name, found in latest.items()}

    def keep_best() -> None:
        if is_main():
            write_state(output / "model_best.safetensors", trainable_state(state.model))

    with stop.listening():
        finished = train(
            state=state,
            network=parallel(model),
            batches=iter(training_batches(cfg, dataset, state.images)),
            loss=loss,
            schedule=schedule,
            max_iter=solver.MAX_ITER,
            accumulate=solver.ACCUMULATE,
            clip_norm=clip_norm_of(cfg),
            log=log,
            checkpoints=checkpoints,
            checkpoint_period=solver.CHECKPOINT_PERIOD,
            evaluate=evaluation if sets else None,
            evaluation_period=cfg.TEST.EVAL_PERIOD,
            keep_best=keep_best,
            stop=stop,
        )
    if cache is not None and is_main():
        logger.info("features: %d from %s, %d encoded", cache.found, cache.folder, cache.encoded)
    if not finished:
        if is_main():
            logger.info("stopped after step %d; the same command with --resume goes on", state.step)
        return INTERRUPTED
    with saying_how_to_go_on(state, checkpoints):
        if sets:
            evaluate_now(state, evaluation, log, keep_best)
        log.close()
        weights = partial(_write_weights, state, output)
        curves = partial(draw_curves, log.path, output / "curves.png")
        return _finish(latest, expected, output, [weights, curves])


def _evaluate_only(cfg: CfgNode, device: torch.device, output: Path) -> int:
    if not cfg.MODEL.WEIGHTS and not cfg.MODEL.ALLOW_RANDOM_WEIGHTS:
        raise UserError(
            "--eval-only needs weights: give MODEL.WEIGHTS FILE, or set "
            "MODEL.ALLOW_RANDOM_WEIGHTS True to try the program without"
        )
    sets = eval_datasets(cfg)
    model = loaded_model(cfg, device)
    prepare_for_inference(cfg, model)
    tester = Evaluator.prepare(cfg, model, sets)
    expected = expected_results(cfg.TEST.EXPECTED_RESULTS, tester.metrics)
    if is_main():
        check_writable(output / RESULTS)
    return _finish(tester.evaluate(), expected, output)


def _finish(
    evaluations: dict[str, Evaluation],
    expected: list[Expected],
    output: Path,
    more: Sequence[Callable[[], object]] = (),
) -> int:
    """Results to the console, then to disk; status 1 if they are not as expected.

    more: what else is to be written. What can be written is, though another file cannot.
    """
    wrong = differences(evaluations, expected)
    if not is_main():
        return 1 if wrong else 0
    writes = list(more)
    if evaluations:
        logger.info("%s", table(evaluations))
        writes.insert(0, partial(write_results, output / RESULTS, evaluations))
    for line in wrong:
        logger.error("not as expected: %s", line)
    _all_of(writes)
    if evaluations:
        logger.info("written to %s", output / RESULTS)
    return 1 if wrong else 0


def _all_of(writes: Sequence[Callable[[], object]]) -> None:
    """Do all; what could not be written is one error at the end."""
    failures = []
    for write in writes:
        try:
            write()
        except WriteError as error:
            failures.append(str(error))
    if failures:
        raise WriteError("; ".join(failures))


def _settle_seed(cfg: CfgNode, checkpoint: TrainingCheckpoint | None) -> None:
    """SEED -1 becomes a number, the same in all processes and in a resumed run."""
    if checkpoint is not None and cfg.SEED not in (-1, checkpoint.seed):
        raise UserError(
            f"SEED {cfg.SEED}: the run to be resumed was started with {checkpoint.seed}"
        )
    if checkpoint is not None:
        cfg.SEED = checkpoint.seed
    elif cfg.SEED < 0:
        cfg.SEED = all_gather_json(secrets.randbelow(2**31))[0]


def _write_weights(state: TrainingState, output: Path) -> None:
    """The trained parts, averaged if there is an average."""
    with state.average.applied() if state.average is not None else nullcontext():
        write_state(output / WEIGHTS, trainable_state(state.model))


def _log(cfg: CfgNode, output: Path, start_step: int) -> TrainingLog:
    return TrainingLog(
        output,
        total_steps=cfg.SOLVER.MAX_ITER,
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        period=cfg.LOG.PERIOD,
        start_step=start_step,
        active=is_main(),
        tensorboard=cfg.LOG.TENSORBOARD,
        wandb_project=cfg.LOG.WANDB,
    )


def argument_parser(
    program: str,
    description: str,
    epilog: str = "Also runs under torchrun, which then says how many processes there are.",
) -> argparse.ArgumentParser:
    """The published command line."""
    parser = argparse.ArgumentParser(prog=program, description=description, epilog=epilog)
    add = parser.add_argument
    add("--config-file", "--config", help="YAML file; without it, the published model's defaults")
    add(
        "--num-gpus",
        type=int,
        default=1,
        help="processes on this machine (with MODEL.DEVICE cpu: on its CPU)",
    )
    add("--num-machines", type=int, default=1)
    add("--machine-rank", type=int, default=0, help="of this machine, from 0")
    add("--dist-url", default="auto", help="where machine 0 listens: tcp://HOST:PORT")
    add("--resume", action="store_true", help="go on from the newest checkpoint in OUTPUT_DIR")
    add("--eval-only", action="store_true", help="only evaluate MODEL.WEIGHTS on DATASETS.TEST")
    add_precision(parser)
    add("--opts", nargs=argparse.REMAINDER, default=[], help="the published way to KEY VALUE ...")
    add("options", nargs="*", metavar="KEY VALUE", help="settings over those of the YAML file")
    return parser
