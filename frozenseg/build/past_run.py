"""Read the files of a past run: its scores, its settings and the course of its training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frozenseg.build.output_folder import CONFIG, EVAL_CONFIG, SCORES
from frozenseg.config import flat_values
from frozenseg.data.benchmarks.short_names import different_ends
from frozenseg.engine.logger import METRICS_FILE, read_metrics
from frozenseg.errors import UserError
from frozenseg.evaluation.comparison import PastRun
from frozenseg.evaluation.results_file import StoredEvaluation, read_results, stored_evaluation
from frozenseg.yaml_file import read_yaml


def read_runs(paths: Sequence[Path]) -> list[PastRun]:
    """Read runs, each named by its folder or by its file of results.

    A folder may hold a training that is still running; its scores are then those of its last
    evaluation. Raises `UserError` for a path that is not a run or that is given twice.
    """
    places = {str(path): _place(path) for path in paths}
    real = [_place(path).resolve() for path in paths]  # several paths may name the same run
    if len(set(real)) < len(paths):
        twice = next(path for path, place in zip(paths, real, strict=True) if real.count(place) > 1)
        raise UserError(f"{twice}: is given twice; give each run once")
    labels = different_ends({name: place.parts for name, place in places.items()})
    return [_read(path, labels[str(path)]) for path in paths]


def run_files(path: Path) -> list[Path]:
    """Return the files that `read_runs` looks for if it is given this path."""
    place = _place(path)
    return [path, *(place / name for name in (SCORES, METRICS_FILE, CONFIG, EVAL_CONFIG))]


def _place(path: Path) -> Path:
    """Return the path that identifies a run: its folder, or a file of results that was renamed."""
    path = path.absolute()
    return path.parent if path.name == SCORES else path


def _read(path: Path, label: str) -> PastRun:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent if path.name == SCORES else None
    file = path / SCORES if path.is_dir() else path
    metrics = read_metrics(folder / METRICS_FILE) if folder is not None else []
    if file.is_file():
        evaluations = read_results(file)
    elif metrics:
        evaluations = _last_evaluation(metrics)
    else:
        raise UserError(f"{path}: holds no run, neither {SCORES} nor {METRICS_FILE}")
    if not evaluations and not metrics:
        raise UserError(f"{file}: holds no evaluation")
    noted = [stored.provenance.get("configuration") for stored in evaluations.values()]
    settings = next((found for found in noted if isinstance(found, dict)), None)
    if settings is None:
        settings = _settings_in(folder) if folder is not None else {}
    settings = {key: value for key, value in settings.items() if key != "OUTPUT_DIR"}
    return PastRun(label, evaluations, settings, metrics)


def _last_evaluation(metrics: Sequence[Mapping[str, Any]]) -> dict[str, StoredEvaluation]:
    rows = [row["evaluation"] for row in metrics if "evaluation" in row]
    entries = rows[-1] if rows else {}
    return {name: stored_evaluation({"summary": summary}) for name, summary in entries.items()}


def _settings_in(folder: Path) -> dict[str, Any]:
    for path in (folder / CONFIG, folder / EVAL_CONFIG):
        if path.is_file():
            return {key: value for _, table in read_yaml(path) for key, value in flat_values(table)}
    return {}
