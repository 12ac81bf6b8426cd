"""The loop: a resumed run, a spread batch and a moving average give the numbers of a plain one."""

import os
import random
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from frozenseg.build import training
from frozenseg.checkpoints.state_dict import trainable_state
from frozenseg.commands.train_net import main
from frozenseg.engine import trainer
from frozenseg.engine.training_loss import LossNormalizers
from frozenseg.errors import UserError, WriteError
from tests.checkpoints.test_schema import state_of
from tests.data.tiny import dataset_name, write_dataset
from tests.engine.tiny import TinyRun
from tests.faults.processes import Started

# Times a run is killed; more for a thorough check by hand: FROZENSEG_KILLS=10 pytest ... -s
KILLS = int(os.environ.get("FROZENSEG_KILLS", "2"))
SIX = ("SOLVER.MAX_ITER", "6")
# Batches of other sizes round otherwise (1e-7); where two matchings cost the same to that digit, or
# a mask logit is zero, a step may then fall either way. With this seed none does.
FOUR_IMAGES = ("SOLVER.IMS_PER_BATCH", "4", "SEED", "8")


def assert_same_run(run: TinyRun, first: str, second: str) -> None:
    """To the last bit: losses, learning rates, scores, final weights."""
    assert run.rows(first) == run.rows(second)
    ours, theirs = run.weights(first), run.weights(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_stopped_and_resumed(run: TinyRun, monkeypatch) -> None:
    evaluations = ("TEST.EVAL_PERIOD", "2")
    assert main(run.arguments("whole", *SIX, *evaluations)) == 0
    with monkeypatch.context() as patch:
        interrupt_at_step(3, patch)
        assert main(run.arguments("parts", *SIX, *evaluations)) == 130
    torch.rand(5)  # whatever the state of the process was
    assert [row["step"] for row in run.losses("parts")] == [1, 2, 3]
    assert main(run.arguments("parts", *SIX, *evaluations, flags=("--resume",))) == 0
    assert_same_run(run, "whole", "parts")


def interrupt_at_step(step: int, monkeypatch) -> None:
    """As Ctrl-C while this step is at work."""
    whole = trainer.training_step

    def training_step(state, *arguments, **named):
        if state.step == step - 1:
            signal.raise_signal(signal.SIGINT)
        return whole(state, *arguments, **named)

    monkeypatch.setattr(trainer, "training_step", training_step)


def test_damaged_newest_checkpoint(run: TinyRun, caplog) -> None:
    main(run.arguments("whole", *SIX))
    main(run.arguments("parts", "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "[3]"))
    newest = run.root / "parts" / "checkpoints" / "step_00000004.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert main(run.arguments("parts", *SIX, flags=("--resume",))) == 0
    assert "step_00000004.pt" in caplog.text and "falling back" in caplog.text
    assert run.losses("whole") == run.losses("parts")


def test_micro_batches_equal_one_large_batch(run: TinyRun) -> None:
    """Class, mask and dice losses have the divisors of the whole batch."""
    main(run.arguments("one", *FOUR_IMAGES))
    main(run.arguments("two", *FOUR_IMAGES, "SOLVER.ACCUMULATE", "2"))
    main(run.arguments("four", *FOUR_IMAGES, "SOLVER.ACCUMULATE", "4"))
    assert_close_losses(run, "one", "two")
    assert_close_losses(run, "one", "four")


def assert_close_losses(run: TinyRun, first: str, second: str) -> None:
    rows = list(zip(run.losses(first), run.losses(second), strict=True))
    assert rows
    for ours, theirs in rows:
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)


def test_moving_average_is_what_is_written(run: TinyRun) -> None:
    main(run.arguments("plain", "SOLVER.EMA", "0.0"))
    main(run.arguments("averaged", "SOLVER.EMA", "0.5", "SOLVER.CHECKPOINT_PERIOD", "1",
                       "SOLVER.CHECKPOINT_KEEP", "9"))  # fmt: skip
    assert run.losses("plain") == run.losses("averaged")
    name = "mask_decoder.query_features"
    folder = run.root / "averaged" / "checkpoints"
    steps = [torch.load(folder / f"step_{step:08d}.pt")["weights"][name] for step in (1, 2, 3, 4)]
    assert torch.equal(steps[-1], run.weights("plain")[name])
    # from the start x0 on: x0/16 + x1/16 + x2/8 + x3/4 + x4/2
    averaged = run.weights("averaged")[name]
    start = 16 * averaged - steps[0] - 2 * steps[1] - 4 * steps[2] - 8 * steps[3]
    assert float((start - steps[0]).abs().max()) < 3e-4  # a step moves by the rate, 1e-4
    assert not torch.equal(averaged, steps[-1])


def test_loss_that_is_not_finite_stops_the_run(run: TinyRun, monkeypatch) -> None:
    from frozenseg.losses.set_criterion import SetCriterion

    whole, calls = SetCriterion.mask_losses, []

    def mask_losses(self, *arguments):
        masks, dice = whole(self, *arguments)
        calls.append(0)
        return masks, dice * (float("nan") if len(calls) == 3 else 1)  # a call a step

    monkeypatch.setattr(SetCriterion, "mask_losses", mask_losses)
    with pytest.raises(UserError, match="step 3: loss_dice, loss_dice_0, .* images") as error:
        main(run.arguments("nan"))
    assert "step_00000002.pt: continue from it with --resume" in str(error.value)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_a_full_memory_says_what_saves_some_and_what_is_left(
    run: TinyRun, monkeypatch, error: Exception
) -> None:
    def full(*_: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(trainer, "training_step", full)
    with pytest.raises(UserError, match="no memory is left: raise SOLVER.ACCUMULATE .* 0 steps"):
        main(run.arguments("full"))


def test_a_gradient_that_is_not_finite_stops_the_run_before_a_weight_changes(
    run: TinyRun, monkeypatch
) -> None:
    """As an overflow in the backward pass, with a finite loss; a checkpoint would be due."""
    whole, calls = trainer.gradient_norm, []

    def gradient_norm(parameters: Iterable[torch.nn.Parameter], limit: float | None = None):
        calls.append(0)
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        if len(calls) == 4:
            trained[0].grad.view(-1)[0] = float("nan")
        return whole(trained, limit)

    options = (*SIX, "SOLVER.CHECKPOINT_KEEP", "1")
    assert main(run.arguments("whole", *options)) == 0
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "gradient_norm", gradient_norm)
        with pytest.raises(UserError, match="step 4: gradient not finite .* step is not taken"):
            main(run.arguments("nan", *options))
    folder = run.root / "nan" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step_00000002.pt"]
    assert main(run.arguments("nan", *options, flags=("--resume",))) == 0
    assert_same_run(run, "whole", "nan")


def test_final_weights_on_a_full_disk_lose_nothing(run: TinyRun, monkeypatch) -> None:
    def full(path: Path, state: object) -> None:
        raise WriteError(f"{path}: cannot be written (No space left on device); make room there")

    assert main(run.arguments("whole")) == 0
    with monkeypatch.context() as patch:
        patch.setattr(training, "write_state", full)
        patch.setattr(training, "trainable_state", lambda model: {})
        with pytest.raises(UserError, match=r"step_00000004\.pt: continue from it with --res") as e:
            main(run.arguments("full"))
    assert "model_best.safetensors: cannot be written" in str(e.value)
    assert main(run.arguments("full", flags=("--resume",))) == 0
    assert_same_run(run, "whole", "full")


class Slope:
    """A loss whose gradient is as steep as asked for, of any batch."""

    weights = {"loss_a": 1.0}

    def __init__(self, steep: float) -> None:
        self.steep = steep

    def prepare(self, *_: object) -> SimpleNamespace:
        return SimpleNamespace(images=None, classes=None, features=None, targets=None)

    def __call__(self, outputs: torch.Tensor, *_: object) -> dict[str, torch.Tensor]:
        return {"loss_a": outputs * self.steep}


def test_in_float16_an_overflow_is_left_out_until_no_scale_helps() -> None:
    state = state_of(1)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}

    def step(steep: float) -> None:
        def network(*_: object) -> torch.Tensor:
            return sum(p.sum() for p in state.model.parameters())

        given = (state, network, Slope(steep), [[]], LossNormalizers())
        trainer.training_step(*given, rate=0.1, clip_norm=1.0)  # type: ignore[arg-type]

    step(1e34)  # finite, but not 2^20 times it
    assert state.scaler.get_scale() == 2.0**19
    now = dict(state.model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in before.items())
    step(1.0)
    assert not torch.equal(now["layer.bias"], before["layer.bias"])
    state.scaler.update(2.0**-12)
    with pytest.raises(UserError, match="gradient not finite"):
        step(1e37)


def test_predictions_that_are_not_finite_stop_the_run(run: TinyRun, monkeypatch) -> None:
    from frozenseg.models.mask_decoder import MaskDecoder

    whole = MaskDecoder._predict_all

    def _predict_all(self, *arguments):
        found = whole(self, *arguments)
        found.mask_embed = found.mask_embed * float("nan")
        return found

    monkeypatch.setattr(MaskDecoder, "_predict_all", _predict_all)
    with pytest.raises(UserError, match=r"step 1: batch of images \d, \d: .*no checkpoint yet"):
        main(run.arguments("nan"))


def start(run: TinyRun, output: str, *options: str, flags: tuple[str, ...] = ()) -> Started:
    return Started(["train_net", *run.arguments(output, *options, flags=flags)], run.root)


@pytest.mark.slow
def test_killed_at_random_moments(run: TinyRun) -> None:
    long = ("SOLVER.MAX_ITER", "60", "SOLVER.STEPS", "[40]", "SOLVER.CHECKPOINT_PERIOD", "2")
    assert start(run, "whole", *long).wait() == 0
    chance, folder = random.Random(0), run.root / "parts" / "checkpoints"

    def newest() -> str:
        return max((path.name for path in folder.glob("step_*.pt")), default="none")

    for _ in range(KILLS):
        before = newest()
        process = start(run, "parts", *long, flags=("--resume",))
        while process.poll() is None and newest() == before:  # or we would never get on
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.wait()
        sys.stderr.write(f"killed, newest checkpoint {newest()}, status {process.returncode}\n")
    assert start(run, "parts", *long, flags=("--resume",)).wait() == 0
    assert_same_run(run, "whole", "parts")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(run: TinyRun, number: int) -> None:
    process = start(run, "stopped", "SOLVER.MAX_ITER", "5000", "DATALOADER.NUM_WORKERS", "1")
    metrics = run.root / "stopped" / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size > 200):
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume continues" in said and "Traceback" not in said
    last = run.losses("stopped")[-1]["step"]
    assert (run.root / "stopped" / "checkpoints" / f"step_{last:08d}.pt").is_file()


@pytest.mark.slow
def test_two_processes_equal_one(run: TinyRun) -> None:
    assert main(run.arguments("one", *FOUR_IMAGES)) == 0
    assert start(run, "two", *FOUR_IMAGES, flags=("--num-gpus", "2")).wait() == 0
    assert_close_losses(run, "one", "two")
    weights = str(run.root / "one" / "model_final.safetensors")
    only = ("MODEL.WEIGHTS", weights)
    assert main(run.arguments("eval_one", *only, flags=("--eval-only",))) == 0
    flags = ("--num-gpus", "2", "--eval-only")
    assert start(run, "eval_two", *only, flags=flags).wait() == 0
    assert run.results("eval_one") == run.results("eval_two")


def test_an_evaluation_that_fails_loses_no_step(run: TinyRun) -> None:
    """A picture of the tests, which nobody has read before, is damaged."""
    periods = (*SIX, "TEST.EVAL_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD", "2")
    assert main(run.arguments("whole", *periods)) == 0
    write_dataset(run.root / "other", [(60, 80)])
    other = ("DATASETS.TEST", f"('{dataset_name(run.root / 'other')}',)")
    (run.root / "other" / "images" / "1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1\.png.*the last good checkpoint is .*step_00000002\.pt"):
        main(run.arguments("parts", *periods, *other))
    assert main(run.arguments("parts", *periods, flags=("--resume",))) == 0
    ours, theirs = run.weights("whole"), run.weights("parts")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def killed(*arguments: object) -> None:
    raise SystemExit


@pytest.mark.parametrize("log_period", ["1", "20"])  # 20: no row is written before it
def test_an_evaluation_that_was_cut_off_is_made_on_resuming(
    run: TinyRun, monkeypatch, log_period: str
) -> None:
    periods = (*SIX, "TEST.EVAL_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD", "2")
    periods += ("LOG.PERIOD", log_period)
    assert main(run.arguments("whole", *periods)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "_evaluate", killed)
        with pytest.raises(SystemExit):
            main(run.arguments("parts", *periods))
    assert (run.root / "parts" / "metrics.jsonl").is_file() == (log_period == "1")
    assert main(run.arguments("parts", *periods, flags=("--resume",))) == 0
    assert_same_run(run, "whole", "parts")
    evaluated = [row["step"] for row in run.rows("whole") if "evaluation" in row]
    assert evaluated == [2, 4, 6]  # none before the first step
    assert main(run.arguments("parts", *periods, flags=("--resume",))) == 0  # nothing is left
    assert_same_run(run, "whole", "parts")


def test_a_kill_before_the_best_score_is_noted_costs_the_evaluation_alone(
    run: TinyRun, monkeypatch
) -> None:
    """The resumed run evaluates again: no worse one behind it is then taken for the best."""
    from frozenseg.evaluation.evaluator import Evaluator
    from frozenseg.evaluation.runner import Evaluation

    whole, scores = trainer.CheckpointFolder.save, iter([30.0, 30.0, 20.0, 25.0, 10.0])

    def evaluate(self, so_far: object = None) -> dict[str, Evaluation]:
        return {run.dataset: Evaluation(5, {"PQ": next(scores)}, {}, 1.0, 0.1)}

    def save(self, checkpoint) -> Path:
        return killed() if checkpoint.best else whole(self, checkpoint)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    periods = ("TEST.EVAL_PERIOD", "1", "SOLVER.CHECKPOINT_PERIOD", "1")
    with monkeypatch.context() as patch:
        patch.setattr(trainer.CheckpointFolder, "save", save)
        with pytest.raises(SystemExit):
            main(run.arguments("out", *periods))
    assert main(run.arguments("out", *periods, flags=("--resume",))) == 0
    last = torch.load(run.root / "out" / "checkpoints" / "step_00000004.pt")
    assert last["best"] == {"metric": f"PQ of {run.dataset}", "score": 30.0, "step": 1}
    assert [row["step"] for row in run.rows("out") if "evaluation" in row] == [1, 2, 3, 4]


def test_the_best_one_before_goes_when_the_last_one_is_better(run: TinyRun, monkeypatch) -> None:
    from frozenseg.evaluation.evaluator import Evaluator
    from frozenseg.evaluation.runner import Evaluation

    scores = iter([30.0, 20.0, 10.0, 40.0])

    def evaluate(self, so_far: object = None) -> dict[str, Evaluation]:
        return {run.dataset: Evaluation(5, {"PQ": next(scores)}, {}, 1.0, 0.1)}

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    periods = ("TEST.EVAL_PERIOD", "1", "SOLVER.CHECKPOINT_PERIOD", "1")
    assert main(run.arguments("out", *periods, "SOLVER.CHECKPOINT_KEEP", "1")) == 0
    folder = run.root / "out" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step_00000004.pt"]
    assert torch.load(folder / "step_00000004.pt")["best"]["score"] == 40.0


def test_best_checkpoint_is_kept(run: TinyRun, monkeypatch) -> None:
    """By the first metric of the first data set, here made to be best after step 2."""
    from frozenseg.evaluation.evaluator import Evaluator
    from frozenseg.evaluation.runner import Evaluation

    scores = iter([10.0, 30.0, 20.0, 25.0])

    evaluated: list[dict[str, torch.Tensor]] = []

    def evaluate(self, so_far: object = None) -> dict[str, Evaluation]:
        evaluated.append({n: t.clone() for n, t in trainable_state(self.pipeline.model).items()})
        return {run.dataset: Evaluation(5, {"PQ": next(scores)}, {}, 1.0, 0.1)}

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    periods = ("TEST.EVAL_PERIOD", "1", "SOLVER.CHECKPOINT_PERIOD", "1")
    main(run.arguments("out", *periods, "SOLVER.CHECKPOINT_KEEP", "1"))
    folder = run.root / "out" / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"step_00000002.pt", "step_00000004.pt"}
    best = torch.load(folder / "step_00000004.pt")["best"]
    assert best == {"metric": f"PQ of {run.dataset}", "score": 30.0, "step": 2}
    kept = load_file(run.root / "out" / "model_best.safetensors")
    assert all(torch.equal(tensor, evaluated[1][name]) for name, tensor in kept.items())
    assert kept.keys() == evaluated[1].keys()


def test_a_longer_run_has_to_beat_the_end_of_the_one_before(run: TinyRun, monkeypatch) -> None:
    from frozenseg.evaluation.evaluator import Evaluator
    from frozenseg.evaluation.runner import Evaluation

    scores = iter([50.0, 40.0, 45.0])

    def evaluate(self, so_far: object = None) -> dict[str, Evaluation]:
        return {run.dataset: Evaluation(5, {"PQ": next(scores)}, {}, 1.0, 0.1)}

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    assert main(run.arguments("out")) == 0
    best = load_file(run.root / "out" / "model_best.safetensors")
    more = ("SOLVER.MAX_ITER", "6", "TEST.EVAL_PERIOD", "5")
    assert main(run.arguments("out", *more, flags=("--resume",))) == 0
    assert next(scores, None) is None
    kept = load_file(run.root / "out" / "model_best.safetensors")
    assert all(torch.equal(tensor, best[name]) for name, tensor in kept.items())


@pytest.mark.parametrize(
    "setting", ["MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS 0", "MODEL.MASK_FORMER.DEC_LAYERS 1"]
)
def test_what_nothing_trains_is_refused_at_the_first_step(run: TinyRun, setting: str) -> None:
    """AdamW keeps no moments of it, so that no checkpoint could be read."""
    no_injectors = ("MODEL.FROZEN_SEG.QUERY_INJECTOR", "False")
    no_injectors += ("MODEL.FROZEN_SEG.FEATURE_INJECTOR", "False")
    with pytest.raises(UserError, match="trained parameters have no effect on the loss"):
        main(run.arguments("out", *no_injectors, *setting.split()))
    assert not list((run.root / "out" / "checkpoints").glob("*.pt"))


def test_a_best_score_of_another_metric_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """A run may go on with other data sets, whose scores are higher or lower."""
    state = SimpleNamespace(step=9, best={"metric": "PQ", "score": 30.0, "step": 2})
    assert not trainer._is_best(
        state, {"ade": {"PQ": 20.0}}
    )  # of a checkpoint without the set's name
    assert trainer._is_best(state, {"ade": {"PQ": 31.0}}) and not caplog.messages
    assert not trainer._is_best(state, {"ade": {"PQ": 20.0}})
    assert trainer._is_best(state, {"voc": {"PQ": 20.0}})
    assert trainer._is_best(state, {"voc": {"mIoU": 10.0}})
    assert state.best == {"metric": "mIoU of voc", "score": 10.0, "step": 9}
    assert "the highest PQ of voc, now of mIoU of voc" in caplog.messages[-1]
