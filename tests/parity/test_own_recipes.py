"""Our own recipes train as they did when the weights that ship were made: the same seeds give the
same losses, whatever the published recipes have been made to do since."""

import json
from pathlib import Path

import pytest

from frozenseg.commands.train_net import main
from frozenseg.small_world.export import export_split

RECIPES = Path(__file__).resolve().parents[2] / "configs" / "small"
SHORT = (
    "MODEL.WEIGHTS", "",
    "MODEL.DEVICE", "cpu",
    "DATASETS.TEST", "()",
    "DATALOADER.NUM_WORKERS", "0",
    "SOLVER.MAX_ITER", "2",
    "SOLVER.WARMUP_ITERS", "2",
    "LOG.PERIOD", "1",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "losses", "options"),
    [
        # The mask adapter came behind the finished decoder.
        ("frozenseg", (108.89287, 98.16633), ("MODEL.FROZEN_SEG.POOLING", "mask")),
        ("fusioner", (1.2912204, 1.0071452), ()),
    ],
)
def test_the_first_losses_are_those_of_the_weights_that_ship(
    recipe: str,
    losses: tuple[float, ...],
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    export_split(
        tmp_path / "small_world", "train", count=10, seed=0, processes=1, progress=lambda _: None
    )
    output = tmp_path / "output"
    config = ("--config-file", str(RECIPES / f"{recipe}.yaml"))
    assert main([*config, *SHORT, *options, "OUTPUT_DIR", str(output)]) == 0
    lines = (output / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line)["total_loss"] for line in lines]
    assert found == pytest.approx(losses, rel=1e-3)
