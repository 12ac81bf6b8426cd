"""One run of an experiment: training in stages, and the scores after each of them."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from tqdm import tqdm

from frozenseg.build.device import build_device, build_precision, prepare_for_inference
from frozenseg.build.evaluator import EvalDataset, build_evaluator, eval_datasets
from frozenseg.build.models import loaded_model
from frozenseg.build.optimization import feature_cache
from frozenseg.build.training import WEIGHTS, train
from frozenseg.checkpoints.training import CheckpointFolder
from frozenseg.config import load_config
from frozenseg.data.loader import eval_loader
from frozenseg.errors import UserError
from frozenseg.evaluation.evaluator import Evaluator, ScoredDataset
from frozenseg.evaluation.metric import State
from frozenseg.evaluation.runner import Share, combined, fresh
from frozenseg.evaluation.tasks import Summary
from frozenseg.files import atomic_path, read_json, write_json
from frozenseg.models.base import SegmentationModel, evaluation_mode
from frozenseg.small_world.experiment.scenes import SceneCounts

BOXES = "instances_boxes"  # its scores are not among the metrics of an experiment


@dataclass(frozen=True)
class Run:
    """An arm with a seed.

    folder: where the run and its scores are stored.
    config: the recipe. options: those of the arm and those of all arms, KEY VALUE alternating.
    weights: the initial weights; None if the arm is not trained itself.
    trained_in: the folder whose weights are scored.
    cooldown: the additional steps of a branch of the training in which the learning rate falls, as
        a share of the steps. The branch is scored in place of the training itself, which continues
        without it (Hägele et al., arXiv 2405.18392). 0: no branch.
    """

    folder: Path
    config: Path
    options: tuple[str, ...]
    weights: Path | None
    trained_in: Path
    cooldown: float = 0.0

    def trained(self, steps: int) -> bool:
        """Whether the weights to score exist and are those after `steps` steps.

        Further training replaces them. The configuration beside them says how far that training
        goes, and the scores say that it has ended.
        """
        config = self._scored_folder(steps) / "config.yaml"
        if not (config.is_file() and _files(self.trained_in, steps, "")[0].is_file()):
            return False
        return int(load_config(config).SOLVER.MAX_ITER) == falls(steps, self.cooldown)[-1]

    def train(self, steps: int) -> bool:
        """Train until `steps` steps are done; returns False if the user has stopped it.

        Raises `UserError` if the training has already gone further.
        """
        assert self.weights is not None, "an arm that is trained has initial weights"
        if not self.cooldown:
            return self._train(self.folder, steps)
        checkpoint = Path("checkpoints") / f"step_{steps:08d}.pt"
        level = ("SOLVER.STEPS", f"({steps},)")
        if not (self.folder / checkpoint).is_file() and not self._train(self.folder, steps, *level):
            return False
        branch = self._scored_folder(steps)
        if not any((branch / "checkpoints").glob("step_*.pt")):
            with atomic_path(branch / checkpoint) as temporary:
                shutil.copyfile(self.folder / checkpoint, temporary)
        first, second, end = falls(steps, self.cooldown)
        return self._train(branch, end, "SOLVER.STEPS", f"({first}, {second})")

    def _train(self, folder: Path, steps: int, *more: str) -> bool:
        found = CheckpointFolder(folder / "checkpoints", keep=1).newest()
        # The weights of a longer training cannot be scored as those of fewer steps.
        if found is not None and found[0].step > steps:
            raise UserError(
                f"{folder}: trained for {found[0].step} steps already, but not scored after "
                f"{steps}; ask for more --steps, or choose another --output"
            )
        more = (*more, "SOLVER.MAX_ITER", str(steps), "MODEL.WEIGHTS", str(self.weights))
        cfg = self._config("OUTPUT_DIR", str(folder), *more)
        cfg.defrost()
        cfg.DATASETS.TEST = []  # `score` evaluates
        return train(cfg, resume=(folder / "checkpoints").is_dir()).finished

    def _scored_folder(self, steps: int) -> Path:
        """Return the folder of the weights that are scored after `steps` steps."""
        return self.trained_in / f"cooldown_{steps}" if self.cooldown else self.trained_in

    def score(self, steps: int, *more: str, name: str = "") -> None:
        """Score the trained weights and write the scores and counts into the folder of this run.

        more: further options. name: part of the file names, for another way to score the same
        weights.
        """
        cfg = self._config("MODEL.WEIGHTS", str(self._scored_folder(steps) / WEIGHTS), *more)
        summary, counts = scored(cfg)
        scores, scenes = _files(self.folder, steps, name)
        counts.write(scenes)
        write_json(scores, summary, indent=1)

    def _config(self, *more: str) -> CfgNode:
        return load_config(self.config, [*self.options, *more])

    def scores(self, steps: int, name: str = "") -> Path:
        """Return the file of the scores after `steps` steps, {metric: per cent}."""
        return _files(self.folder, steps, name)[0]


def falls(steps: int, cooldown: float) -> tuple[int, int, int]:
    """Return the two steps at which the learning rate falls, and the last of the branch.

    cooldown: as in `Run`.
    """
    return steps, round(steps * (1 + cooldown * 2 / 3)), round(steps * (1 + cooldown))


def _files(folder: Path, steps: int, name: str) -> tuple[Path, Path]:
    """Return the files of the scores, and of what was counted in each scene."""
    return folder / f"scores{name}_{steps}.json", folder / f"scenes{name}_{steps}.npz"


def read(folder: Path, steps: int, name: str = "") -> tuple[Summary, SceneCounts]:
    """Return the scores of a run, and what was counted in each scene of the first test set."""
    scores, scenes = _files(folder, steps, name)
    summary = {key: np.nan if value is None else value for key, value in read_json(scores).items()}
    return summary, SceneCounts.read(scenes)


def scored(cfg: CfgNode) -> tuple[Summary, SceneCounts]:
    """Score the model of a configuration on DATASETS.TEST.

    Returns the scores of all sets in per cent, and the counts of the first set. Keys of the scores
    of any other set begin with its name.
    """
    sets = eval_datasets(cfg)
    model = loaded_model(cfg, build_device(cfg))
    prepare_for_inference(cfg, model)
    _keep_features(cfg, model)
    evaluator = build_evaluator(cfg, model, sets)
    summary: Summary = {}
    with evaluation_mode(model):
        found = [_of_set(evaluator, entry) for entry in evaluator.sets]
    for number, (entry, (of_set, _)) in enumerate(zip(sets, found, strict=True)):
        summary |= {f"{entry.name} {key}" if number else key: v for key, v in of_set.items()}
    return summary, SceneCounts.of_states(found[0][1], _seen(sets[0]))


def _keep_features(cfg: CfgNode, model: SegmentationModel) -> None:
    """Read the features of test images from the feature cache, if there is one, as in training.

    Then each image is encoded only once in all runs.
    """
    cache = feature_cache(cfg, model, build_precision(cfg, model.device))
    if cache is None:
        return

    def encode(images: Any, _: Any = None) -> Any:
        return cache(images, model.device)

    setattr(model, "encode", encode)  # noqa: B010 (only this instance)


def _of_set(evaluator: Evaluator, entry: ScoredDataset) -> tuple[Summary, dict[str, list[State]]]:
    """Return the scores of a test set, and the metric state of each task for each single image."""
    tasks = {name: task for name, task in entry.tasks.items() if name != BOXES}
    states: dict[str, list[State]] = {name: [] for name in tasks}
    samples = eval_loader(entry.dataset, num_workers=evaluator.num_workers)
    flat = (sample for batch in samples for sample in batch)
    found = evaluator.predictions(entry, flat)
    for record, result in tqdm(found, entry.name[-30:], len(samples), unit=" images", disable=None):
        for name, task in tasks.items():
            single = fresh(task)
            single.update(record, result)
            states[name].append(single.metric.state())
    share = Share(len(samples), states, model_seconds=0.0, scoring_seconds=0.0)
    return combined(tasks, [share]).summary, states


def _seen(entry: EvalDataset) -> np.ndarray:
    return np.array(entry.vocabulary.seen(entry.training))
