"""Output folders of runs, and runs that go on."""

import shutil
from pathlib import Path

from tests.faults.edits import inside
from tests.faults.table import Case, Make

TRAIN = "train_net --config-file world/tiny.yaml OUTPUT_DIR {}"
RESUME = "train_net --config-file world/tiny.yaml --resume OUTPUT_DIR run SOLVER.MAX_ITER 6"


def run(change) -> Make:  # type: ignore[no-untyped-def]
    """The finished run of the world, changed."""
    return inside("run", change)


def _without_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints")


def metrics(lines: bytes) -> Make:
    """A run whose metrics.jsonl holds these bytes behind its first line."""

    def change(folder: Path) -> None:
        path = folder / "metrics.jsonl"
        first = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([first[0], lines, *first[1:]]))

    return run(change)


def _cut_metrics(folder: Path) -> None:
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])


def _leftovers(folder: Path) -> None:
    """Temporary files of a killed run, which the next one removes."""
    for name in (".model_final.abcdefgh.safetensors", ".results.abcdefgh.json"):
        (folder / name).write_bytes(bytes(100))


def _folder_named(name: str) -> Make:
    return lambda world, folder: (folder / "out" / name).mkdir(parents=True)


SAM = "train_small_sam --output out --steps 2 --test-images 2 --workers 0"
CASES = [
    Case("finished_run_without_checkpoints", TRAIN.format("run"), 2, "run",
         run(_without_checkpoints), ("run/model_final.safetensors", "run/results.json"), fast=True),
    Case("finished_run", TRAIN.format("run"), 2, "resume", run(lambda folder: None),
         ("run/model_final.safetensors",), fast=True),
    Case("resume_in_a_missing_folder", RESUME.replace("OUTPUT_DIR run", "OUTPUT_DIR slip"), (0, 2),
         "slip", seconds=90),
    Case("resume_with_other_size", f"{RESUME} INPUT.IMAGE_SIZE 96", (0, 2), "IMAGE_SIZE",
         run(lambda folder: None)),
    Case("resume_with_other_data", f"{RESUME} DATASETS.TRAIN_VOCABULARY small_world_seen", (0, 2),
         "TRAIN_VOCABULARY", run(lambda folder: None)),
    *(Case(f"resume_metrics_{name}", RESUME, (0, 2), words, metrics(lines), fast=name == "no_step")
      for name, lines, words in (
          ("no_step", b'{"loss": 1}\n', "metrics.jsonl"),
          ("garbage", b"not json\n", "metrics.jsonl"),
          ("not_utf8", b"\xc3\x28\n", "metrics.jsonl"),
          ("text_step", b'{"step": "x"}\n', "metrics.jsonl"),
          ("number", b"5\n", "metrics.jsonl"),
      )),
    Case("resume_metrics_cut", RESUME, 0, "", run(_cut_metrics)),
    Case("resume_removes_leftovers", RESUME, 0, "", run(_leftovers),
         gone=("run/.model_final.abcdefgh.safetensors", "run/.results.abcdefgh.json")),
    Case("output_is_a_file", TRAIN.format("world/tiny.yaml"), 2, "tiny.yaml", fast=True),
    Case("output_in_proc", TRAIN.format("/proc/x"), 2, "/proc/x", fast=True),
    Case("output_long", TRAIN.format("x" * 300), 2, "xxx"),
    *(Case(f"{name}_is_a_folder", TRAIN.format("out"), 2, name, _folder_named(name),
           fast=name == "results.json")
      for name in ("model_final.safetensors", "results.json", "metrics.jsonl", "config.yaml")),
    Case("rate_too_high", f"{TRAIN.format('out')} SOLVER.BASE_LR 1.0 SOLVER.MAX_ITER 4 "
         "SOLVER.CLIP_GRADIENTS.ENABLED False SOLVER.STEPS ()", (0, 2), ""),
    Case("small_sam_output_is_a_file", SAM.replace("--output out", "--output world/tiny.yaml"), 2,
         "tiny.yaml"),
    Case("small_sam_resume_in_a_missing_folder", f"{SAM} --resume", 2, "out"),
    Case("view_samples_in_proc", "view_samples --config-file world/tiny.yaml --output /proc/x.png",
         2, "cannot be written"),
    Case("mean_results_missing", "mean_results x.json --output y.json", 2, "x.json|usage"),
]  # fmt: skip
