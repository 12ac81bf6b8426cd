"""The whole service: a real process, asked over the loopback."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import frozenseg
from frozenseg.errors import UserError
from frozenseg.files import shipped

httpx = pytest.importorskip("httpx", reason="pip install 'frozenseg[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'frozenseg[serve]'")
pytestmark = pytest.mark.slow

SCENE = shipped("demo") / "images" / "scene_2.png"
WORDS = ["grass", "sky", "circle, disc", "car"]


class Service:
    """`frozenseg serve` on a free port."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "frozenseg", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
        )
        for line in self.process.stdout or ():
            if found := re.match(r"(http\S+) serves", line):
                self.url = found[1]
                return
        raise AssertionError("the service ended")

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [
            int(child)
            for child in children.split()
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("empty"), "--max-queue", "4", "--batch-size", "2")
    yield service
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 0


@pytest.fixture(scope="module")
def expected():
    with frozenseg.load("small", device="cpu") as segmenter:
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


def test_many_clients_lose_nothing_and_get_their_own(service: Service, expected) -> None:
    """More than the queue holds: some are refused, none waits for ever, no answer is another's."""
    data = SCENE.read_bytes()
    statuses: list[int] = []

    def ask(number: int) -> None:
        with httpx.Client(base_url=service.url, timeout=120, trust_env=False) as http:
            for _ in range(3):
                names = "; ".join(WORDS) if number % 2 else "grass; sky"
                answer = http.post("/v1/segment", files={"image": data}, data={"vocabulary": names})
                statuses.append(answer.status_code)
                if answer.status_code == 200:
                    got = [" ".join(entry["names"][:1]) for entry in answer.json()["classes"]]
                    assert got == [part.split(",")[0] for part in names.split("; ")]
                else:
                    assert answer.headers["retry-after"] and "queue" in answer.json()["error"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 36 and set(statuses) == {200, 503}


def test_a_killed_worker_is_replaced(service: Service, expected) -> None:
    (worker,) = service.workers()
    os.kill(worker, signal.SIGKILL)
    with frozenseg.Client(service.url, timeout=60) as client:
        for _ in range(20):
            try:
                result = client(SCENE, WORDS)
                break
            except UserError as error:
                assert "try again" in str(error)
                time.sleep(1)
        assert_equal(result, expected)


def test_memory_is_flat_over_requests(service: Service) -> None:
    def memory() -> int:
        text = httpx.get(service.url + "/metrics", trust_env=False).text
        (line,) = [row for row in text.splitlines() if row.startswith("frozenseg_model_memory")]
        return int(float(line.split()[-1]))

    data = SCENE.read_bytes()
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as http:
        sizes = []
        for number in range(120):
            words = f"grass; sky; word {number % 30}"
            http.post("/v1/segment", files={"image": data}, data={"vocabulary": words})
            sizes.append(memory())
    assert max(sizes[60:]) < max(sizes[:60]) + 60e6


def test_a_stop_finishes_what_runs(tmp_path: Path) -> None:
    service = Service(tmp_path)
    outcome: list[int] = []

    def ask() -> None:
        files, data = {"image": SCENE.read_bytes()}, {"vocabulary": "grass; sky"}
        answer = httpx.post(
            service.url + "/v1/segment", files=files, data=data, timeout=60, trust_env=False
        )
        outcome.append(answer.status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.1)
    service.process.send_signal(signal.SIGINT)
    thread.join()
    assert outcome == [200]
    assert service.process.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--port", "99999"), "--port"),
        (("--max-queue", "0"), "--max-queue"),
        (("--model", "smal"), "small"),
        (("--token-file", "none"), "--token-file"),
        (("--weights", "none.safetensors"), "none.safetensors"),
    ],
)
def test_wrong_settings_are_one_line(arguments: tuple[str, ...], line: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "frozenseg", "serve", "--port", "0", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert ended.returncode == 2, ended.stderr
    assert line in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr
