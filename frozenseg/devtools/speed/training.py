"""Time the parts of a training step (forward, losses, backward, optimiser) on made-up images."""

import torch
from fvcore.common.config import CfgNode

from frozenseg.build.device import build_device
from frozenseg.build.optimization import clip_norm_of, training_loss, training_state
from frozenseg.data.dataset import Sample
from frozenseg.devtools.speed.baselines import Baseline
from frozenseg.devtools.speed.clock import Place, stage_places
from frozenseg.devtools.speed.memory import measure_memory
from frozenseg.devtools.speed.prediction import Times, timed_stages
from frozenseg.devtools.speed.setting import Setting, random_model
from frozenseg.engine.trainer import loss_normalizers, training_step
from frozenseg.engine.training_loss import MaskClassificationLoss


class Training:
    """A model in training, and the batch that it sees in every step."""

    def __init__(self, cfg: CfgNode, setting: Setting, batch: int) -> None:
        self.cfg = cfg
        self.device = build_device(cfg)
        self.model = random_model(cfg, self.device).train()
        self.state = training_state(cfg, self.model)
        text = setting.text(self.model.text_encoder.embed_dim).to(self.device)
        self.loss = training_loss(cfg, self.model, text)
        generator = torch.Generator().manual_seed(0)
        self.samples: list[Sample] = [setting.sample(generator) for _ in range(batch)]
        if self.device.type == "cuda":  # as the data loader does
            self.samples = [sample.pin_memory() for sample in self.samples]

    def places(self) -> list[Place]:
        """List the methods of a training step that are timed."""
        places = stage_places(self.model)  # stages used only in prediction do not run
        if isinstance(self.loss, MaskClassificationLoss):
            places.append(Place("losses", type(self.loss.criterion), "__call__"))
        return [
            *places,
            Place("backward", torch.Tensor, "backward"),
            Place("optimiser", self.state.optimizer, "step"),
        ]

    def step(self) -> None:
        """Take one training step."""
        normalizers, _ = loss_normalizers(self.loss, [self.samples], False)
        training_step(
            self.state,
            self.model,
            self.loss,
            [self.samples],
            normalizers,
            rate=self.cfg.SOLVER.BASE_LR,
            clip_norm=clip_norm_of(self.cfg),
        )

    def timed(self) -> dict[str, float]:
        """Take one training step; return the seconds of its parts, the rest and everything."""
        return timed_stages(self.places(), self.step, self.device)


def training_times(
    cfg: CfgNode, setting: Setting, *, batch: int, baselines: list[Baseline], repeats: int
) -> Times:
    """Time training steps in turn with the baselines, as `prediction_times` does.

    Memory is measured over the first two steps, so that it includes the optimiser's state.
    """
    ours = Training(cfg, setting, batch)

    def two_steps() -> None:
        ours.step()
        ours.step()

    memory = measure_memory(two_steps, ours.device)
    for baseline in baselines:
        baseline.seconds()  # warms up
    rounds = []
    for _ in range(repeats):
        times = ours.timed()
        times |= {baseline.name: baseline.seconds() for baseline in baselines}
        rounds.append(times)
    rows = {name: [times[name] for times in rounds] for name in rounds[0]}
    names = dict.fromkeys(place.name for place in ours.places())
    return Times(rows, tuple(name for name in names if name in rows), memory)
