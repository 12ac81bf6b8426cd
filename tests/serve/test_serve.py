"""The whole service: a real process, asked over the loopback."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import frozenseg
from frozenseg.devtools.commands import benchmark_service
from frozenseg.errors import UserError
from frozenseg.files import shipped
from tests.serve.service import Service

httpx = pytest.importorskip("httpx", reason="pip install 'frozenseg[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'frozenseg[serve]'")
pytestmark = pytest.mark.slow

SCENE = shipped("demo") / "images" / "scene_2.png"
WORDS = ["grass", "sky", "circle, disc", "car"]
PAGE = os.sysconf("SC_PAGE_SIZE")
# An image takes a tenth of its usual time so.
QUICK = ("TEST.USE_SAM_MASKS", "False", "INPUT.MIN_SIZE_TEST", "96", "INPUT.MAX_SIZE_TEST", "128")


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("empty")
    service = Service(folder, "--max-queue", "4", "--batch-size", "2", *QUICK)
    yield service
    service.stop()


@pytest.fixture(scope="module")
def expected():
    with frozenseg.load("small", device="cpu", options=QUICK) as segmenter:
        return segmenter(SCENE, WORDS)


def assert_equal(result, expected) -> None:
    np.testing.assert_array_equal(result.panoptic.ids, expected.panoptic.ids)
    np.testing.assert_array_equal(result.semantic, expected.semantic)
    np.testing.assert_array_equal(result.instances.masks, expected.instances.masks)
    np.testing.assert_allclose(result.instances.scores, expected.instances.scores, atol=1e-5)
    assert [s.name for s in result.panoptic.segments] == [
        s.name for s in expected.panoptic.segments
    ]


def test_the_client_gives_what_the_predictor_gives(service: Service, expected) -> None:
    with frozenseg.Client(service.url) as client:
        assert_equal(client(SCENE, WORDS), expected)
        with pytest.raises(UserError, match="threshold"):
            client(SCENE, WORDS, threshold=7)


def post(url: str, image: bytes, names: str) -> Any:
    files, data = {"image": image}, {"vocabulary": names}
    return httpx.post(url + "/v1/segment", files=files, data=data, timeout=300, trust_env=False)


def at_once(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_clients_lose_nothing_and_get_their_own(service: Service) -> None:
    """More than the queue holds: some are refused, none waits for ever, no answer is another's."""
    sizes = [(60, 40), (40, 60), (64, 64)]
    statuses: list[int] = []

    def ask(number: int) -> None:
        size = sizes[number % 3]
        image = io.BytesIO()
        Image.linear_gradient("L").resize(size).save(image, "PNG")
        for turn in range(3):
            names = f"grass; word {number} of {turn}"
            answer = post(service.url, image.getvalue(), names)
            statuses.append(answer.status_code)
            body = answer.json()
            if answer.status_code == 200:
                assert [entry["names"][0] for entry in body["classes"]] == names.split("; ")
                assert (body["width"], body["height"]) == size
            else:
                assert answer.headers["retry-after"] and "queue" in body["error"]

    at_once(ask, 12)
    assert len(statuses) == 36 and set(statuses) == {200, 503}


def test_a_killed_worker_is_replaced(service: Service, expected) -> None:
    """What it was working on is refused, what waited is answered, and nothing hangs."""
    statuses: list[int] = []

    def ask(number: int) -> None:
        if number:
            statuses.append(post(service.url, SCENE.read_bytes(), "; ".join(WORDS)).status_code)
        else:
            time.sleep(0.2)
            os.kill(worker, signal.SIGKILL)

    (worker,) = service.workers()
    at_once(ask, 5)
    assert len(statuses) == 4 and set(statuses) <= {200, 503}
    with frozenseg.Client(service.url) as client:
        assert_equal(client(SCENE, WORDS), expected)
    assert service.workers() != [worker]


def test_memory_is_flat_over_requests(tmp_path: Path) -> None:
    """Of both processes."""
    service = Service(tmp_path, *QUICK)

    def memory() -> dict[str, float]:
        processes = {"service": service.process.pid, "model": service.workers()[0]}
        return {
            name: int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE / 1e6
            for name, process in processes.items()
        }

    sizes = []
    for number in range(200):
        post(service.url, SCENE.read_bytes(), f"grass; sky; word {number % 30}")
        sizes.append(memory())
    service.stop()
    for name in ("service", "model"):
        early, late = ([size[name] for size in part] for part in (sizes[:100], sizes[100:]))
        assert max(late) < max(early) + 30, name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_finishes_what_runs(tmp_path: Path, number: int) -> None:
    """The signal reaches all processes, as from a terminal or a service manager."""
    service = Service(tmp_path, "--batch-size", "1")
    outcome: list[int] = []
    files = [("images", SCENE.read_bytes())] * 2

    def ask() -> None:
        url, data = service.url + "/v1/segment/batch", {"vocabulary": "grass; sky"}
        answer = httpx.post(url, files=files, data=data, timeout=300, trust_env=False)
        outcome.append(answer.status_code)

    def is_idle() -> bool:
        metrics = httpx.get(service.url + "/metrics", timeout=300, trust_env=False)
        return "frozenseg_queue_images 0.0" in metrics.text

    thread = threading.Thread(target=ask)
    thread.start()
    while is_idle():  # the second image waits for as long as the model has the first one
        assert thread.is_alive(), "the answer came before the signal"
        time.sleep(0.01)
    for process in (*service.workers(), service.process.pid):
        os.kill(process, number)
    thread.join()
    assert outcome == [200]
    assert service.process.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--port", "99999"), "--port"),
        (("--max-queue", "0"), "--max-queue"),
        (("--config-file", "smal"), "small"),
        (("--token-file", "none"), "--token-file"),
        (("--weights", "none.safetensors"), "none.safetensors"),
    ],
)
def test_wrong_settings_are_one_line(arguments: tuple[str, ...], line: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "frozenseg", "serve", "--port", "0", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert ended.returncode == 2, ended.stderr
    assert line in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr


def test_load_is_measured_and_answers_stay_equal(tmp_path: Path) -> None:
    numbers = tmp_path / "load.json"
    benchmark_service.main(
        ["--clients", "1", "6", "--requests", "6", "--max-queue", "2", "--json", str(numbers)]
        + ["--memory-requests", "2"]
    )
    found = json.loads(numbers.read_text())
    assert found["pixels_differ"] == 0
    assert [row["answers"] for row in found["rows"]] == [6, 6]
    assert not any(row["wrong"] or row["other"] for row in found["rows"])
    assert len(found["memory_mib"]["service"]) == 2
