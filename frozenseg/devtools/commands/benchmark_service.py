"""Time `frozenseg serve` under load: latency by number of clients, refusals, wrong answers, memory.

A service is started on a free port of the loopback interface. Two pictures of the small world, each
with two vocabularies, make four different requests. Each client sends one request after another,
and repeats a request that was refused.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import frozenseg
from frozenseg.commands.number_arguments import check_least
from frozenseg.commands.output_argument import output_file
from frozenseg.errors import UserError
from frozenseg.files import shipped, write_json

WORDS = ["sky; sand; mountain; circle, disc; moon; car", "grass; water; heart; star"]
Answer = dict[str, Any]


def main(argv: list[str]) -> None:
    """Print a table of latency by number of concurrent clients, then memory over many requests."""
    parser = argparse.ArgumentParser(prog="frozenseg benchmark_service", description=__doc__)
    add = parser.add_argument
    add(
        "--clients", type=int, nargs="+", default=[1, 4, 16], help="clients at a time (%(default)s)"
    )
    add("--requests", type=int, default=64, help="answers in each row (%(default)s)")
    add("--max-queue", type=int, default=8, help="--max-queue of the service (%(default)s)")
    add("--memory-requests", type=int, default=0, help="requests during which memory is watched")
    add("--json", type=output_file, help="write the numbers to this file")
    add("options", nargs="*", metavar="KEY VALUE", help="settings for the small model")
    arguments = parser.parse_intermixed_args(argv)
    check_least(arguments, clients=1, requests=1, max_queue=1, memory_requests=0)
    images = [shipped("demo") / "images" / f"scene_{number}.png" for number in (1, 2)]
    works = [(image, words) for image in images for words in WORDS]
    with _service(arguments.max_queue, arguments.options) as (url, process):
        asker = _Asker(url, works)
        differing = asker.differs_from_python(arguments.options)
        print(f"{differing} pixels differ from the Python API in {len(works)} pictures")
        print("clients  answers  refused  other  wrong  median s  95 % s  answers/s")
        rows = [asker.row(clients, arguments.requests) for clients in arguments.clients]
        memory = asker.memory(process, arguments.memory_requests)
    if arguments.json:
        numbers = {"cores": os.cpu_count(), "max_queue": arguments.max_queue, "rows": rows}
        write_json(
            arguments.json, {**numbers, "pixels_differ": differing, "memory_mib": memory}, indent=1
        )


@contextlib.contextmanager
def _service(max_queue: int, options: list[str]) -> Iterator[tuple[str, int]]:
    """Start a service; yield its address and its process id."""
    command = [sys.executable, "-m", "frozenseg", "serve", "--port", "0"]
    command += ["--max-queue", str(max_queue), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if " serves " not in line:
                raise UserError("the service did not start; its error message is above")
            yield line.split()[0], process.pid
        finally:
            process.terminate()


class _Asker:
    """Sends requests to a service.

    works: the image file and the vocabulary of each request.
    """

    def __init__(self, url: str, works: list[tuple[Path, str]]) -> None:
        import httpx

        self.url, self.works = url, works
        self.open = lambda: httpx.Client(base_url=url, timeout=300, trust_env=False)
        self.contents = [image.read_bytes() for image, _ in works]
        with self.open() as http:
            # The first pass embeds the words. All later answers must equal those of the second.
            for _ in range(2):
                self.expected = [_split(self._send(http, n).json()) for n in range(len(works))]

    def _send(self, http: Any, number: int) -> Any:
        at = number % len(self.works)
        data = {"vocabulary": self.works[at][1], "format": "map"}
        return http.post("/v1/segment", files={"image": self.contents[at]}, data=data)

    def differs_from_python(self, options: list[str]) -> int:
        """Count the pixels at which the client's maps differ from those of the Python API."""
        count = 0
        segmenter = frozenseg.load("small", device="cpu", options=options)
        with segmenter, frozenseg.Client(self.url) as client:
            for image, words in self.works:
                ours, theirs = segmenter(image, words), client(image, words)
                count += int(np.sum(ours.regions.ids != theirs.regions.ids))
                count += int(np.sum(ours.semantic != theirs.semantic))
        return count

    def row(self, clients: int, requests: int) -> dict[str, Any]:
        """Let clients send requests until they have `requests` answers in total; print a row."""
        seconds: list[float] = []
        counts: Counter[str] = Counter()

        def client(first: int) -> None:
            with self.open() as http:
                for number in range(first, requests, clients):
                    self._until_answered(http, number, seconds, counts)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        row = {
            "clients": clients,
            "answers": len(seconds),
            "refused": counts["503"],
            "other": counts["other"],
            "wrong": counts["wrong"],
            "median_s": float(np.median(seconds)),
            "p95_s": float(np.percentile(seconds, 95)),
            "answers_per_s": len(seconds) / (time.monotonic() - start),
        }
        counted = "".join(f"{row[key]:9d}" for key in ("answers", "refused", "other", "wrong"))
        times = "".join(f"{row[key]:10.2f}" for key in ("median_s", "p95_s", "answers_per_s"))
        print(f"{clients:7d}{counted}{times}", flush=True)
        return row

    def _until_answered(
        self, http: Any, number: int, seconds: list[float], counts: Counter[str]
    ) -> None:
        while True:
            start = time.monotonic()
            answer = self._send(http, number)
            if answer.status_code != 503:
                break
            counts["503"] += 1
            time.sleep(int(answer.headers["retry-after"]))
        seconds.append(time.monotonic() - start)
        if answer.status_code != 200:
            counts["other"] += 1
        elif not _equal(_split(answer.json()), self.expected[number % len(self.works)]):
            counts["wrong"] += 1

    def memory(self, process: int, requests: int) -> dict[str, list[float]]:
        """Send requests one by one; return the memory of both processes over time, in MiB."""
        sizes: dict[str, list[float]] = {"service": [], "model": []}
        with self.open() as http:
            for number in range(requests):
                if self._send(http, number).status_code != 200:
                    raise UserError("a request failed while memory was watched")
                if number == requests - 1 or number % max(1, requests // 10) == 0:
                    lines = Path(f"/proc/{process}/status").read_text().splitlines()
                    (own,) = [int(line.split()[1]) / 1024 for line in lines if "VmRSS" in line]
                    metrics = http.get("/metrics").text.splitlines()
                    (model,) = [m for m in metrics if m.startswith("frozenseg_model_memory_bytes ")]
                    sizes["service"].append(own)
                    sizes["model"].append(float(model.split()[1]) / 2**20)
                    print(f"{number:5d} requests: {own:7.1f} and {sizes['model'][-1]:7.1f} MiB")
        return sizes


def _split(answer: Answer) -> tuple[Answer, list[float]]:
    """Split an answer into the part that must be equal each time, and its scores."""
    same = {key: value for key, value in answer.items() if key != "seconds"}
    rows = [*same["panoptic"]["segments"], *same["instances"]]
    return same, [row.pop("score") for row in rows]


def _equal(one: tuple[Answer, list[float]], other: tuple[Answer, list[float]]) -> bool:
    """Tell whether two answers agree; scores may vary slightly, as they do with the batch size."""
    return one[0] == other[0] and np.allclose(one[1], other[1], atol=1e-5)
