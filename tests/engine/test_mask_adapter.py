"""Training with a mask adapter: it learns, what trains beside it begins as without it."""

import pytest
import torch

from frozenseg.commands.train_net import main
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
