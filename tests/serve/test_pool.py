"""The queue and the processes behind it, with a process that answers without a model."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client", reason="pip install 'frozenseg[serve]'")

from frozenseg.serve import pool as pool_module
from frozenseg.serve.jobs import TASKS, Job, ModelSource, Refusal
from frozenseg.serve.limits import Limits
from frozenseg.serve.metrics import Metrics
from frozenseg.serve.pool import Pool
from frozenseg.text.vocabulary import Vocabulary
from tests.serve import echo


def job(image: bytes, words: str = "car; road") -> Job:
    return Job(image, Vocabulary.parse(words), 0.25, TASKS, "json")


async def stays() -> bool:
    return False


def with_pool(
    scenario: Callable[[Pool], Awaitable[None]],
    model: str = "echo",
    devices: int = 1,
    options: tuple[str, ...] = (),
    **limits,
) -> Pool:
    """Run a scenario with a pool whose process is ready."""

    async def whole() -> Pool:
        source = ModelSource(model, options=options)
        pool = Pool(source, [None] * devices, Limits(**limits), Metrics(), work=echo.work)
        pool.start()
        try:
            while pool.info is None and pool.failure is None:
                await asyncio.sleep(0.02)
            await asyncio.wait_for(scenario(pool), 100)
        finally:
            await pool.close()
        return pool

    return asyncio.run(whole())


async def ask(pool: Pool, *jobs: Job):
    outcomes = await pool.submit(list(jobs), stays)
    return [out if isinstance(out, Refusal) else json.loads(out.body) for out in outcomes]


def test_a_model_is_called_after_its_folder_or_file(tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "run_0.5"
    run.mkdir()
    assert ModelSource(str(run)).name == "run_0.5"
    assert ModelSource(str(run / "own.yaml")).name == "own"
    monkeypatch.chdir(run)
    assert ModelSource(".").name == "run_0.5"
    assert ModelSource("small").name == "small"


def test_jobs_of_one_vocabulary_go_together_and_others_do_not() -> None:
    async def scenario(pool: Pool) -> None:
        jobs = [job(b"a"), job(b"b", "sky"), job(b"c"), job(b"d"), job(b"e")]
        answers = await ask(pool, *jobs)
        assert [answer["image"] for answer in answers] == list("abcde")
        assert [answer["together"] for answer in answers] == [3, 1, 3, 3, 1]
        assert answers[1]["names"] == [["sky"]]

    with_pool(scenario, batch=3)


def test_a_full_queue_refuses_a_request_as_a_whole_and_loses_none() -> None:
    async def scenario(pool: Pool) -> None:
        running = asyncio.create_task(ask(pool, job(b"slow")))
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(ask(pool, job(b"w"))) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="queue is full") as refused:
            await ask(pool, job(b"x"), job(b"y"))
        assert refused.value.status == 503 and refused.value.retry_after
        assert [answers[0]["image"] for answers in await asyncio.gather(*waiting)] == ["w"] * 3
        await running

    with_pool(scenario, queue=4, batch=1)


@pytest.mark.parametrize("end", [b"die", b"hang"])
def test_a_process_that_dies_or_hangs_is_replaced(end: bytes, monkeypatch) -> None:
    monkeypatch.setattr(pool_module, "PAUSE", 0.05)

    async def scenario(pool: Pool) -> None:
        (before,) = await ask(pool, job(b"a"))
        (ended,) = await ask(pool, job(end))
        assert isinstance(ended, Refusal) and ended.status == 503 and "try again" in ended.message
        (after,) = await ask(pool, job(b"b"))
        assert after["image"] == "b" and after["pid"] != before["pid"]

    with_pool(scenario, timeout=2.0)


@pytest.mark.parametrize("times", [1, pool_module.TRIES + 1])
def test_an_answer_that_nobody_expected_ends_no_service(times: int, monkeypatch) -> None:
    monkeypatch.setattr(pool_module, "PAUSE", 0.05)

    async def scenario(pool: Pool) -> None:
        for _ in range(times):
            (ended,) = await asyncio.wait_for(ask(pool, job(b"odd")), 20)
            assert isinstance(ended, Refusal) and ended.status == 503
        (after,) = await asyncio.wait_for(ask(pool, job(b"a")), 20)
        assert after["image"] == "a"

    with_pool(scenario)


def test_an_error_of_one_request_is_not_that_of_the_others() -> None:
    async def fails() -> bool:
        raise RuntimeError("of this request")

    async def scenario(pool: Pool) -> None:
        with pytest.raises(RuntimeError, match="of this request"):
            await asyncio.wait_for(pool.submit([job(b"a")], fails), 20)
        (after,) = await asyncio.wait_for(ask(pool, job(b"b")), 20)
        assert after["image"] == "b"

    with_pool(scenario)


def test_a_model_that_makes_graphs_has_more_time() -> None:
    async def scenario(pool: Pool) -> None:
        (answer,) = await ask(pool, job(b"slow"))
        assert not isinstance(answer, Refusal) and answer["image"] == "slow"

    with_pool(scenario, "graphs", timeout=0.1)


def test_a_client_that_has_left_costs_nothing() -> None:
    async def left() -> bool:
        return True

    async def scenario(pool: Pool) -> None:
        (outcome,) = await pool.submit([job(b"die")], left)  # it would end the process
        assert isinstance(outcome, Refusal) and outcome.status == 499
        assert b"frozenseg_queue_images 0.0" in pool.metrics.text()
        assert (await ask(pool, job(b"a")))[0]["image"] == "a"

    with_pool(scenario)


@pytest.mark.parametrize(
    ("model", "line"), [("broken", "broken: cannot be loaded"), ("dies", "ended 3 times")]
)
def test_a_model_that_cannot_be_loaded_ends_the_pool(model: str, line: str, monkeypatch) -> None:
    monkeypatch.setattr(pool_module, "PAUSE", 0.01)

    async def scenario(pool: Pool) -> None:
        with pytest.raises(Refusal, match=line):
            await ask(pool, job(b"a"))

    assert line in (with_pool(scenario, model).failure or "")


def test_two_devices_work_at_the_same_time() -> None:
    async def scenario(pool: Pool) -> None:
        answers = await ask(pool, *[job(b"slow", f"word {n}") for n in range(6)])
        assert len({answer["pid"] for answer in answers}) == 2

    with_pool(scenario, devices=2)


def test_who_waits_for_a_model_that_cannot_be_loaded_again_is_told(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(pool_module, "PAUSE", 0.05)

    async def scenario(pool: Pool) -> None:
        jobs = [job(b"die"), job(b"a"), job(b"b", "sky")]
        ended, *waited = await asyncio.wait_for(ask(pool, *jobs), 20)
        assert ended.status == 503 and "try again" in ended.message
        for refused in waited:
            assert refused.status == 503 and refused.message == "broken: cannot be loaded"
        assert b"frozenseg_queue_images 0.0" in pool.metrics.text()

    with_pool(scenario, "in turn", options=(str(tmp_path / "starts"), "echo", "broken"), batch=1)


def test_only_tries_in_a_row_count(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pool_module, "PAUSE", 0.05)

    async def scenario(pool: Pool) -> None:
        for _ in range(pool_module.TRIES):
            await ask(pool, job(b"die"))
            (answer,) = await asyncio.wait_for(ask(pool, job(b"a")), 20)
            assert not isinstance(answer, Refusal) and answer["image"] == "a"

    fates = ("echo", *("dies", "echo") * pool_module.TRIES)
    with_pool(scenario, "in turn", options=(str(tmp_path / "starts"), *fates))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_lets_the_model_finish(number: int) -> None:
    async def scenario(pool: Pool) -> None:
        (before,) = await ask(pool, job(b"a"))
        running = asyncio.create_task(ask(pool, job(b"slow")))
        await asyncio.sleep(0.1)
        os.kill(before["pid"], number)
        (answer,) = await running
        assert not isinstance(answer, Refusal) and answer["pid"] == before["pid"]

    with_pool(scenario)


UNCLOSED = """
import asyncio
from frozenseg.serve.jobs import ModelSource
from frozenseg.serve.limits import Limits
from frozenseg.serve.metrics import Metrics
from frozenseg.serve.pool import Pool
from tests.serve import echo

async def start():
    pool.start()
    while pool.info is None:
        await asyncio.sleep(0.02)

pool = Pool(ModelSource("echo"), [None], Limits(), Metrics(), work=echo.work)
loop = asyncio.new_event_loop()
loop.run_until_complete(start())
"""


def test_a_service_that_does_not_close_its_pool_ends_all_the_same() -> None:
    subprocess.run([sys.executable, "-c", UNCLOSED], check=True, timeout=60, capture_output=True)
