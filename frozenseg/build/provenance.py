"""The provenance of a run, i.e. its code, settings, weights and data, for its log and results."""

import logging
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from fvcore.common.config import CfgNode

from frozenseg.build.evaluator import EvalDataset
from frozenseg.build.families import find_family
from frozenseg.config import default_config, flat_config, flat_values
from frozenseg.data.benchmarks import data_root
from frozenseg.data.digests import label_maps_digest
from frozenseg.encoders.frozen import weights_digest
from frozenseg.engine.distributed import is_main, world_size
from frozenseg.engine.log_file import FILE_ONLY, log_file
from frozenseg.engine.logger import utc_time
from frozenseg.files import resolve_packaged_path, sha256_of
from frozenseg.models.base import SegmentationModel
from frozenseg.runtime.environment import code_version, device_name, library_versions
from frozenseg.runtime.precision import Precision
from frozenseg.text.names import distinct

logger = logging.getLogger(__name__)

NOTICEABLE = 0.05  # a larger share of the initial weights in the moving average causes a warning


@contextmanager
def run_log(output: Path) -> Iterator[None]:
    """Inside the context, the first process also logs to OUTPUT_DIR/log.txt.

    Each run appends to the file, first the version of the code, the command and the versions of
    the libraries.
    """
    with log_file(output) if is_main() else nullcontext():
        if is_main():
            code = _code_version()
            versions = ", ".join(f"{name} {value}" for name, value in library_versions().items())
            _to_file("frozenseg %s, commit %s", code["version"], code["commit"] or "not known")
            _to_file("command: %s", _command())
            _to_file("libraries: %s", versions)
        yield


def log_model(cfg: CfgNode, model: SegmentationModel, precision: Precision) -> None:
    """Log device, precision, seed and model size and, only in the file, the changed settings."""
    if not is_main():
        return
    changed = [f"{key}: {value!r}" for key, value in _changed_settings(cfg)]
    _to_file("settings that are not the defaults:\n  %s", "\n  ".join(changed))
    trained = sum(value.numel() for _, value in model.trainable_parameters())
    frozen = sum(value.numel() for value in model.parameters()) - trained
    processes, threads = world_size(), torch.get_num_threads()
    logger.info(
        f"{cfg.MODEL.META_ARCHITECTURE} in {precision.name} on {_device(precision.device)}; "
        f"{processes} process{'' if processes == 1 else 'es'} of {threads} "
        f"thread{'' if threads == 1 else 's'}; seed {cfg.SEED}; "
        f"parameters: {trained:,} trained, {frozen:,} frozen"
    )


def log_average(cfg: CfgNode) -> None:
    """Log that the moving average of the weights is scored; warn if the run is too short for it."""
    decay, steps = cfg.SOLVER.EMA, cfg.SOLVER.MAX_ITER
    if not decay or not is_main():
        return
    logger.info("the moving average of the weights is scored and written: SOLVER.EMA %g", decay)
    if (share := decay**steps) > NOTICEABLE:
        said = (
            "after %d steps, the initial weights still make up %.0f %% of the average; set "
            "SOLVER.EMA 0 for a short trial"
        )
        logger.warning(said, steps, 100 * share)


def nested_settings(cfg: CfgNode) -> dict[str, Any]:
    """Return the configuration as plain dictionaries, lists, numbers and text."""
    return yaml.safe_load(cfg.dump())


def frozen_digests(cfg: CfgNode, model: SegmentationModel) -> dict[str, str]:
    """Return a digest of the weights of each frozen image encoder; {} except on the first process.

    It must be called before the weights are cast to another precision.
    """
    if not is_main():
        return {}
    encoders = find_family(cfg).identity(cfg, model)
    return {name: weights_digest(encoder) for name, (_, encoder) in encoders.items()}


def about_sets(
    cfg: CfgNode,
    sets: Sequence[EvalDataset],
    precision: Precision,
    *,
    weights: str,
    frozen: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Return the entries of results.json for each data set besides its scores: "classes" and
    "provenance"; {} except on the first process.

    weights: the file of the trained parts; "" if they are random.
    frozen: from `frozen_digests`.
    """
    if not is_main():
        return {}
    path = Path(resolve_packaged_path(weights)) if weights else None
    common = {
        "date": utc_time(),
        "command": _command(),
        "code": _code_version(),
        "weights": {
            "file": weights,
            "sha256": sha256_of(path) if path is not None and path.is_file() else None,
            "frozen": dict(frozen),
        },
        "device": _device(precision.device),
        "precision": precision.name,
        "processes": world_size(),
        "versions": library_versions(),
        "configuration": dict(flat_values(nested_settings(cfg))),
    }
    return {
        entry.name: {
            "classes": _classes(entry),
            "provenance": {**common, "data": _data_digests(entry)},
        }
        for entry in sets
    }


def _classes(entry: EvalDataset) -> dict[str, str]:
    categories = entry.categories
    labels = distinct(entry.vocabulary.labels)  # a user's own list may repeat a name
    return dict(zip(map(str, categories.dataset_ids), labels, strict=True))


def _data_digests(entry: EvalDataset) -> dict[str, str]:
    """Return the SHA-256 of each annotation file, by file name, and of the list of label maps."""
    row = entry.benchmark.located(data_root())
    paths = [data_root() / name for name in (row.annotations, row.instances) if name]
    names = distinct(path.name for path in paths)
    pairs = zip(names, paths, strict=True)
    digests = {name: sha256_of(path) for name, path in pairs if path.is_file()}
    maps = label_maps_digest(entry.dataset.records)
    return digests | ({"label maps, by name and size": maps} if maps else {})


def _changed_settings(cfg: CfgNode) -> list[tuple[str, Any]]:
    defaults = flat_config(default_config())
    return [(key, value) for key, value in flat_config(cfg).items() if value != defaults.get(key)]


def _command() -> str:
    """Return the command line, without the folder of a program that is not a command of frozenseg,
    e.g. a notebook."""
    program = sys.argv[0] if sys.argv[0].startswith("frozenseg ") else Path(sys.argv[0]).name
    return f"{program} {shlex.join(sys.argv[1:])}"


def _device(device: torch.device) -> str:
    return f"{device.type}: {device_name(device)}"


@cache
def _code_version() -> dict[str, str | None]:
    return code_version()


def _to_file(message: str, *values: object) -> None:
    logger.info(message, *values, extra=FILE_ONLY)
