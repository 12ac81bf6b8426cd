"""The queue and the processes behind it, with a process that answers without a model."""

import asyncio
import json
from collections.abc import Awaitable, Callable

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
    scenario: Callable[[Pool], Awaitable[None]], model: str = "echo", devices: int = 1, **limits
) -> Pool:
    """Run a scenario with a pool whose process is ready."""

    async def whole() -> Pool:
        pool = Pool(
            ModelSource(model), [None] * devices, Limits(**limits), Metrics(), work=echo.work
        )
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


def test_a_client_that_has_left_costs_nothing() -> None:
    async def left() -> bool:
        return True

    async def scenario(pool: Pool) -> None:
        (outcome,) = await pool.submit([job(b"die")], left)  # it would end the process
        assert isinstance(outcome, Refusal) and outcome.status == 499
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
