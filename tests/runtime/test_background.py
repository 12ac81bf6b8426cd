"""Reading ahead and writing behind: order, bounds, errors at their place."""

import threading
import time
from collections.abc import Iterator

import pytest

from frozenseg.runtime.background import AsyncWriter, batched, prefetch


def test_items_come_in_order_and_not_too_far_ahead() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    most = 0
    for number in prefetch(numbers(), 3):
        time.sleep(0.005)
        most = max(most, len(made) - number)
        assert number in made
    assert made == list(range(20))
    assert 2 <= most <= 5  # the one in use, three ahead, and one that is just asked for


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def numbers() -> Iterator[int]:
        yield from (1, 2)
        raise ZeroDivisionError

    seen = []
    with pytest.raises(ZeroDivisionError):
        seen.extend(prefetch(numbers(), 5))
        pytest.fail("no error")
    found = prefetch(numbers(), 5)
    assert [next(found), next(found)] == [1, 2]


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    for number in prefetch(iter(range(1000)), 2):
        if number == 3:
            break
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_calls_behind_are_done_in_order_by_another_thread() -> None:
    done: list[int] = []
    threads = set()

    def work(number: int) -> None:
        time.sleep(0.002 * (number % 3))
        threads.add(threading.current_thread())
        done.append(number)

    with AsyncWriter(3) as out:
        for number in range(10):
            out.do(work, number)
            assert len(done) >= number - 3
    assert done == list(range(10)) and threading.main_thread() not in threads


def test_an_error_behind_ends_the_block_and_what_was_asked_for_is_done() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == 1:
            raise ZeroDivisionError
        done.append(number)

    with pytest.raises(ZeroDivisionError), AsyncWriter(1) as out:
        for number in range(50):
            out.do(work, number)
    assert 0 in done and len(done) < 10
    with pytest.raises(KeyError), AsyncWriter(9) as out:
        for number in (5, 6, 7):
            out.do(work, number)
        raise KeyError
    assert done[-3:] == [5, 6, 7]


@pytest.mark.parametrize(
    ("size", "expected"), [(1, ["a", "a", "a", "b", "a"]), (2, ["aa", "a", "b", "a"])]
)
def test_groups_of_neighbours(size: int, expected: list[str]) -> None:
    assert ["".join(group) for group in batched("aaaba", size, str)] == expected
