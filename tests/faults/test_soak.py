"""Everything at once for some time: nothing is lost, and memory does not grow.

    mount -t tmpfs -o size=32m tmpfs DISK
    FROZENSEG_SOAK_MINUTES=30 FROZENSEG_SOAK_DISK=DISK FROZENSEG_SOAK_REPORT=soak.json \\
        pytest tests/faults/test_soak.py

A training is killed at any moment, its disk is full at times, and it must end with the weights of
one that was left alone. Meanwhile a predictor segments, and two processes write one text cache, for
which the disk is full at times too. Without FROZENSEG_SOAK_DISK, a limit on the size of files
stands for the full disk; with it, that small disk is filled and emptied all the time as well.
"""

import json
import os
import random
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.faults.processes import PYTHON, Outcome, run_command

MINUTES = float(os.environ.get("FROZENSEG_SOAK_MINUTES", "0.5"))
TRAIN = (
    "train_net --config-file world/tiny.yaml DATASETS.TEST () SOLVER.MAX_ITER 24 SOLVER.STEPS ()"
)
PREDICT = """
import json, os, time, numpy as np, frozenseg
segment = frozenseg.load('world/tiny.yaml', weights='world/weights.safetensors')
images = [np.random.default_rng(i).integers(0, 255, (40 + i, 60, 3), np.uint8) for i in range(9)]
memory, count, end = [], 0, time.monotonic() + {seconds}
while time.monotonic() < end:
    segment(images[count % 9], vocabulary=[f'a{{count % 50}}', 'road', f'b{{count % 7}}'])
    count += 1
    if count % 20 == 0:
        pages = int(open('/proc/self/statm').read().split()[1])
        memory.append(pages * os.sysconf('SC_PAGE_SIZE') // 2**20)
json.dump({{'predictions': count, 'memory_mib': memory}}, open('{name}.json', 'w'))
"""
CACHE = """
import json, resource, time, torch
from frozenseg.text.classifier import TextClassifier
from pathlib import Path
class Encoder:
    def text_fingerprint(self): return 'soak'
    def encode_text(self, texts):
        rows = [torch.Generator().manual_seed(sum(map(ord, text))) for text in texts]
        return torch.stack([torch.randn(64, generator=row) for row in rows])
count, wrong, end = 0, 0, time.monotonic() + {seconds}
while time.monotonic() < end:
    full = count % 3 == 0
    if full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    names = [f'name {{count * 7 % 400 + i}}' for i in range(5)]
    found = TextClassifier(Encoder(), folder=Path('disk/cache')).vectors(names)
    alone = TextClassifier(Encoder(), folder=None).vectors(names)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wrong += not torch.equal(found, alone)
    count += 1
json.dump({{'vocabularies': count, 'wrong': wrong}}, open('{name}.json', 'w'))
"""
PROGRAMS = {"predictor": PREDICT, "cache1": CACHE, "cache2": CACHE}


def _train_to_the_end(
    folder: Path, seconds: float, numbers: random.Random, ends: Counter[str]
) -> None:
    """Start the training again and again until it is done, and kill it in between.

    seconds: that it takes if it is left alone and nothing else runs.
    """
    run = folder / "disk" / "run"
    shutil.rmtree(run, ignore_errors=True)
    while True:
        begun = list((run / "checkpoints").glob("step_*.pt"))
        if not begun:
            shutil.rmtree(run, ignore_errors=True)
        arguments = [*TRAIN.split(" "), "OUTPUT_DIR", "disk/run"]
        if begun:
            arguments.insert(1, "--resume")
        full = numbers.choice((None, None, 30_000))
        outcome = run_command(
            arguments,
            folder,
            seconds * numbers.uniform(0.1, 3),
            output="train.txt",
            largest_file=full,
        )
        assert "Traceback" not in outcome.text, outcome.text
        assert outcome.hung or outcome.status in (0, 2), outcome.text
        ends["killed" if outcome.hung else "full disk" if outcome.status else "done"] += 1
        if outcome.status == 0 and not outcome.hung:
            return


def _fill_and_empty(disk: Path, done: threading.Event, fills: Counter[str]) -> None:
    """Take all room of the disk for a moment, and give it back."""
    numbers = random.Random(1)
    filling = disk / "filling"
    while not done.wait(numbers.uniform(1, 6)):
        try:
            with filling.open("wb", buffering=0) as stream:
                while stream.write(bytes(100_000)):
                    pass
        except OSError:
            fills["full"] += 1
        done.wait(numbers.uniform(0.2, 3))
        filling.unlink()


def _start(folder: Path, seconds: float) -> dict[str, Future[Outcome]]:
    """Run the predictor and the writers of the cache beside each other, for so many seconds."""
    pool = ThreadPoolExecutor(len(PROGRAMS))
    return {
        name: pool.submit(
            run_command,
            [PYTHON, PROGRAMS[name].format(seconds=seconds, name=name)],
            folder,
            3 * seconds + 120,
            output=f"{name}.txt",
        )
        for name in PROGRAMS
    }


@pytest.mark.slow
def test_all_at_once(world: Path, tmp_path: Path) -> None:
    small_disk = os.environ.get("FROZENSEG_SOAK_DISK")
    (tmp_path / "world").symlink_to(world)
    (tmp_path / "disk").symlink_to(small_disk or tmp_path)
    begin = time.monotonic()
    alone = run_command([*TRAIN.split(" "), "OUTPUT_DIR", "alone"], tmp_path, 300)
    assert alone.status == 0, alone.text
    expected = load_file(tmp_path / "alone" / "model_final.safetensors")
    seconds_alone, begin, seconds = time.monotonic() - begin, time.monotonic(), 60 * MINUTES
    programs = _start(tmp_path, seconds)
    done, fills = threading.Event(), Counter[str]()
    filler = threading.Thread(target=_fill_and_empty, args=(tmp_path / "disk", done, fills))
    if small_disk:
        filler.start()
    numbers, ends, runs = random.Random(0), Counter[str](), 0
    try:
        while time.monotonic() - begin < seconds:
            _train_to_the_end(tmp_path, seconds_alone, numbers, ends)
            found = load_file(tmp_path / "disk" / "run" / "model_final.safetensors")
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)
            runs += 1
    finally:
        done.set()
    outcomes = {name: program.result() for name, program in programs.items()}
    for name, outcome in outcomes.items():
        assert outcome.status == 0, f"{name}: {outcome.text}"
    report = {
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "trainings": {"equal to the last bit": runs, "processes": dict(ends)},
        "disk filled": fills["full"],
        **{name: json.loads((tmp_path / f"{name}.json").read_text()) for name in programs},
    }
    (Path(os.environ.get("FROZENSEG_SOAK_REPORT") or tmp_path / "soak.json")).write_text(
        json.dumps(report, indent=1) + "\n"
    )
    assert report["cache1"]["wrong"] == report["cache2"]["wrong"] == 0
    memory = report["predictor"]["memory_mib"]
    assert max(memory[len(memory) // 2 :]) <= 1.1 * max(memory[: len(memory) // 2])
