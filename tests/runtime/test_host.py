"""A host process is as it was, whatever the package does in it: each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from frozenseg.runtime.isolation import own_random_stream, plain_defaults

ROOT = Path(__file__).parents[2]

SNAPSHOT = """
import json, logging, os, random, sys, threading, warnings
import numpy as np, open_clip, torch, cv2
import scipy.optimize  # adds filters for its own warnings when it is imported
from PIL import Image

def state():
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "random": repr(random.getstate()),
        "numpy": repr(np.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads(), cv2.getNumThreads()],
        "flags": [
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark, torch.backends.mkldnn.enabled, torch.is_grad_enabled(),
        ],
        "print": str(torch._tensor_str.PRINT_OPTS),
        "safe": len(torch.serialization.get_safe_globals()),
        "open_clip": sorted(open_clip.list_models()),
        "warnings": repr(warnings.filters),
        "root": [repr(logging.getLogger().handlers), logging.getLogger().level],
        "logger": [repr(logging.getLogger("frozenseg").handlers),
                   logging.getLogger("frozenseg").level],
        "pixels": Image.MAX_IMAGE_PIXELS,
        "excepthook": repr(sys.excepthook), "path": sys.path,
        "running": threading.active_count(),
    }

before = state()
import frozenseg
image = np.zeros((48, 64, 3), np.uint8)
for model in ("small", "small-fusioner"):
    segmenter = frozenseg.load(model, device="cpu")
    segmenter(image, ["sky", "car"])
    segmenter.batch([image, image], "sky; car")
after = state()
print(json.dumps([key for key in before if before[key] != after[key]]))
"""


def run(program: str, **environment: str) -> list[str]:
    """The last line that a program prints, as JSON; text vectors are not cached."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("THP_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**kept, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_loading_and_segmenting_change_nothing() -> None:
    assert run(SNAPSHOT) == []


FOUND = """
import json, numpy as np, torch
HOST
import frozenseg
segmenter = frozenseg.load("small", device="cpu", options={"TEST.USE_SAM_MASKS": False})
image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
words = ["sky", "car", "grass"]
print(json.dumps([
    [np.unique(result.semantic, return_counts=True)[1].tolist(), result.instances.scores.tolist(),
     [segment.score for segment in result.panoptic.segments]]
    for result in (segmenter(image, words, threshold=0), *segmenter.batch([image], words))
]))
"""


@pytest.mark.parametrize(
    "host",
    [
        "torch.set_default_dtype(torch.float64); torch.set_default_device('meta')",
        "torch.autocast('cpu', torch.bfloat16).__enter__()",
    ],
)
def test_a_hosts_defaults_do_not_matter(host: str) -> None:
    assert run(FOUND.replace("HOST", host)) == run(FOUND.replace("HOST", ""))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_given_back() -> None:
    """Freed arrays of the host, and of a predictor that is closed."""
    program = """
import json, re
import numpy as np
import frozenseg

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1e3

segmenter = frozenseg.load("small", device="cpu")
before = resident()
arrays = [np.ones(12_000_000) for _ in range(5)]  # 480 MB
del arrays
arrays_kept = resident() - before
segmenter(np.zeros((600, 800, 3), np.uint8), ["sky"])
loaded = resident()
with segmenter:
    pass
print(json.dumps([arrays_kept, loaded - resident()]))
"""
    arrays_kept, given_back = run(program)
    assert arrays_kept < 50 and given_back > 20


def test_streams_and_defaults_of_the_process_go_on() -> None:
    import torch

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = torch.rand(1)
    with own_random_stream(5):
        drawn = torch.rand(3)
    assert torch.equal(torch.cat([first, torch.rand(1)]), expected)
    with own_random_stream(5):
        assert torch.equal(torch.rand(3), drawn)
    with own_random_stream(-1):
        new = torch.rand(3)
    with own_random_stream(-1):
        assert not torch.equal(torch.rand(3), new)
    torch.set_default_dtype(torch.float64)
    try:
        with plain_defaults():
            with plain_defaults():
                assert torch.ones(1).dtype == torch.float32
            assert torch.ones(1).dtype == torch.float32
        assert torch.ones(1).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
