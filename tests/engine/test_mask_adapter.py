"""Training with a mask adapter: it learns, what trains beside it begins as without it."""

import pytest
import torch

from frozenseg.checkpoints.state_dict import read_state
from frozenseg.commands.train_net import main
from frozenseg.errors import UserError
from tests.conftest import FC_CLIP_OPTIONS
from tests.engine.tiny import TinyRun

OPTIONS = (*FC_CLIP_OPTIONS, "MODEL.DEVICE", "cpu")
ADAPTER = (
    *("MODEL.FROZEN_SEG.POOLING", "adapter"),
    *("MODEL.FROZEN_SEG.MASK_ADAPTER.NUM_CHANNELS", "8"),
    *("MODEL.FROZEN_SEG.MASK_ADAPTER.IOU_THRESHOLD", "0"),  # tiny runs predict no good masks
)
NEW = ("loss_adapter", "loss_consistency")


@pytest.mark.slow
def test_a_run_with_an_adapter(run: TinyRun) -> None:
    assert main(run.arguments("plain", *OPTIONS)) == 0
    plain = run.weights("plain")
    assert not any("adapter" in name for name in plain)
    assert not any(name in row for row in run.losses("plain") for name in NEW)

    assert main(run.arguments("adapter", *OPTIONS, *ADAPTER)) == 0
    weights = run.weights("adapter")
    assert plain.keys() < weights.keys()
    rows = run.losses("adapter")
    assert all(row[name] > 0 for row in rows for name in NEW)

    more = ("SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()")
    assert main(run.arguments("whole", *OPTIONS, *ADAPTER, *more)) == 0
    assert main(run.arguments("split", *OPTIONS, *ADAPTER, *more, "SOLVER.ACCUMULATE", "2")) == 0
    for one, other in zip(run.losses("whole"), run.losses("split"), strict=True):
        assert one["total_loss"] == pytest.approx(other["total_loss"], rel=1e-4)
    for name, tensor in run.weights("whole").items():
        torch.testing.assert_close(run.weights("split")[name], tensor, atol=1e-3, rtol=1e-2)


@pytest.mark.slow
def test_an_adapter_alone_behind_finished_decoders(run: TinyRun) -> None:
    """Nothing but the adapter changes; a first run may lack it, a test may not."""
    assert main(run.arguments("decoders", *OPTIONS)) == 0
    finished = ("MODEL.WEIGHTS", str(run.root / "decoders" / "model_final.safetensors"))
    alone = (*OPTIONS, *ADAPTER, "MODEL.FROZEN_SEG.MASK_ADAPTER.ALONE", "True")

    assert main(run.arguments("behind", *alone, *finished)) == 0
    before, after = run.weights("decoders"), run.weights("behind")
    assert before.keys() == {name for name in after if not name.startswith("mask_adapter.")}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    row = run.losses("behind")[-1]
    assert {name for name in row if name.startswith("loss_")} == set(NEW)

    weights = ("MODEL.WEIGHTS", str(run.root / "behind" / "model_final.safetensors"))
    assert main(run.arguments("on", *alone, *weights)) == 0
    moved = {
        name for name, tensor in after.items() if not torch.equal(run.weights("on")[name], tensor)
    }
    assert moved and all(name.startswith("mask_adapter.") for name in moved)

    checkpoint = str(run.root / "behind" / "checkpoints" / "step_00000004.pt")
    assert all(torch.equal(after[name], read) for name, read in read_state(checkpoint).items())
    assert read_state(checkpoint).keys() == after.keys()

    evaluation = ("--eval-only",)
    assert main(run.arguments("test", *alone, *weights, flags=evaluation)) == 0
    for options, said in (
        ((*alone, *finished), "POOLING to mask for these weights"),
        ((*OPTIONS, *weights), "POOLING to adapter for these weights"),
    ):
        with pytest.raises(UserError, match=said):
            main(run.arguments("test", *options, flags=evaluation))
    with pytest.raises(UserError, match="name their weights in MODEL.WEIGHTS"):
        main(run.arguments("nothing", *alone))
    with pytest.raises(UserError, match="POOLING mask there is no mask adapter"):
        main(run.arguments("nothing", *OPTIONS, *alone[-2:]))
