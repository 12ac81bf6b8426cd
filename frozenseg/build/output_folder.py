"""Check the OUTPUT_DIR of a run for the files of an earlier run, and write the configuration."""

import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from frozenseg.checkpoints.schema import TrainingCheckpoint
from frozenseg.checkpoints.training import CheckpointFolder
from frozenseg.config import flat_values
from frozenseg.engine.distributed import all_gather_json, barrier, is_main
from frozenseg.engine.lock import only_writer
from frozenseg.engine.log_file import LOG_FILE
from frozenseg.errors import UserError, nearest
from frozenseg.files import atomic_path, check_writable, remove_temporaries
from frozenseg.yaml_file import UNREADABLE

logger = logging.getLogger(__name__)

CONFIG, EVAL_CONFIG = "config.yaml", "config_eval.yaml"
SCORES, SCORES_SO_FAR = "results.json", "results_so_far.json"
RESULTS = ("model_final.safetensors", "model_best.safetensors", SCORES)
# Everything that a run writes atomically, except its checkpoints, pictures and predictions.
WRITTEN = (
    *(CONFIG, EVAL_CONFIG, *RESULTS, SCORES_SO_FAR),
    *("metrics.jsonl", "curves.png", "wandb_id"),
)

Found = tuple[TrainingCheckpoint, Path]


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Keep other runs from writing into the folder. All processes of a run must enter it."""
    with only_writer(output) if is_main() else nullcontext():
        barrier()  # no process reads the folder before it is locked
        yield


def settle_seed(cfg: CfgNode, checkpoint: TrainingCheckpoint | None) -> None:
    """Replace a SEED of -1 by a random number; all processes and resumed runs get the same one."""
    if checkpoint is not None and cfg.SEED not in (-1, checkpoint.seed):
        raise UserError(
            f"SEED {cfg.SEED}: the run to be resumed was started with {checkpoint.seed}"
        )
    if checkpoint is not None:
        cfg.SEED = checkpoint.seed
    elif cfg.SEED < 0:
        cfg.SEED = all_gather_json(secrets.randbelow(2**31))[0]


def require_same_checkpoint(output: Path, found: Found | None) -> None:
    """Raise `UserError`, in all processes, if one of them has found another checkpoint.

    found: what this process has found in the folder `output`.
    """
    steps = all_gather_json(found[0].step if found else 0)
    for number, step in enumerate(steps):
        if step != steps[0]:
            raise UserError(
                f"OUTPUT_DIR {output}: process {number} would resume after step {step}, but "
                f"process 0 after step {steps[0]}; all machines must see the same folder: share "
                "it, or copy its checkpoints to each machine"
            )


def take_over(
    output: Path, checkpoints: CheckpointFolder, found: Found | None, resume: bool, max_iter: int
) -> None:
    """Prepare the folder for this run. found: the checkpoint to resume from, if there is one."""
    if resume:
        say_what_was_found(found, output, checkpoints, max_iter)
    clean(output, checkpoints)
    check_places(output, checkpoints)


def clean(output: Path, checkpoints: CheckpointFolder) -> None:
    """Remove half-written files of killed runs. No other run may be writing to the folder."""
    for name in WRITTEN:
        remove_temporaries(output, name, alone=True)
    remove_temporaries(checkpoints.folder, "step_*.pt", alone=True)
    remove_temporaries(output / "pictures", "*.jpg", alone=True)


def refuse_another_run(output: Path, checkpoints: CheckpointFolder) -> None:
    """Without --resume, refuse a folder with checkpoints or results of another run."""
    if checkpoints.paths():
        raise UserError(
            f"{checkpoints.folder} holds checkpoints of another run: continue it with --resume, "
            "or give another OUTPUT_DIR"
        )
    if held := [name for name in RESULTS if (output / name).is_file()]:
        raise UserError(
            f"OUTPUT_DIR {output} holds the results of another run ({', '.join(held)}), but no "
            "checkpoint: give another OUTPUT_DIR, or move these files away"
        )


def say_what_was_found(
    found: Found | None, output: Path, checkpoints: CheckpointFolder, max_iter: int
) -> None:
    """Log, before the first step, after which step --resume continues."""
    if found is None:
        held = [name for name in RESULTS if (output / name).is_file()]
        replaced = f"; {', '.join(held)} there will be replaced" if held else ""
        said = "no checkpoint in %s: starting at step 0%s%s"
        logger.warning(said, checkpoints.folder, replaced, _runs_beside(output))
        return
    checkpoint, path = found
    if checkpoint.step < max_iter:
        logger.info("resuming after step %d of %d from %s", checkpoint.step, max_iter, path)
    else:
        said = "step %d of %d was the last, according to %s: only the results are written"
        logger.info(said, checkpoint.step, max_iter, path)


def _runs_beside(output: Path) -> str:
    """Suggest the folders beside this one that hold checkpoints; "" if there are none."""
    paths = output.absolute().parent.glob("*/checkpoints/step_*.pt")
    names = sorted({path.parent.parent.name for path in paths} - {output.name})
    return f" ({nearest(output.name, names)})" if names else ""


def check_places(output: Path, checkpoints: CheckpointFolder) -> None:
    """Raise `WriteError` before the first step if a file of the run cannot be written."""
    for name in (*WRITTEN, LOG_FILE):
        check_writable(output / name)
    if checkpoints.folder.exists():
        check_writable(checkpoints.folder / "step_00000000.pt")


def write_config(cfg: CfgNode, output: Path) -> None:
    """Write the resolved configuration beside the checkpoints, just before the first step.

    A run that is refused before then does not overwrite the configuration of the weights in the
    folder. A previous configuration that differs is kept as config.yaml.1 and so on, and the log
    names the keys that differ.
    """
    path, text = output / CONFIG, cfg.dump()
    if path.exists():
        if differences := "; ".join(_differences(path, text)):
            kept = _free_name(path)
            path.rename(kept)
            said = "the settings differ from those of the run so far, which are kept in %s: %s"
            logger.warning(said, kept, differences)
    _write(path, text)


def write_eval_config(cfg: CfgNode, output: Path) -> None:
    """Write the configuration of an evaluation, to a file of its own, because OUTPUT_DIR may be the
    folder of the training that the weights come from."""
    _write(output / EVAL_CONFIG, cfg.dump())


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _differences(path: Path, text: str) -> Iterator[str]:
    """Yield "KEY: before -> now" for every key that differs."""
    try:
        before = dict(flat_values(yaml.safe_load(path.read_bytes())))
    except (*UNREADABLE, OSError, RecursionError):
        yield f"{path} cannot be read"
        return
    now = dict(flat_values(yaml.safe_load(text)))
    for key, first, second in differing(before, now):
        yield f"{key}: {first} -> {second}"


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield every key that differs, with both values; the value of a missing key is "absent"."""
    for key in sorted(before.keys() | now.keys()):
        first, second = before.get(key, "absent"), now.get(key, "absent")
        if first != second:
            yield key, first, second


def _free_name(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return kept
