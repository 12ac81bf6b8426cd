"""Reading ahead and writing behind: order, bounds, errors at their place."""

import threading
import time
from collections.abc import Iterator

import pytest

from frozenseg.runtime.background import AsyncWriter, bucketed, map_ahead, newest, prefetch


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
    ("size", "window", "expected"),
    [
        (1, 2, ["a", "b", "a", "-", "a", "b", "a"]),
        (2, 9, ["aa", "-", "bb", "aa"]),
        (4, 3, ["-", "aa", "b", "aa", "b"]),  # the first a, then the first b, has waited enough
        (4, 99, ["-", "aaaa", "bb"]),
    ],
)
def test_partners_are_waited_for_so_long(size: int, window: int, expected: list[str]) -> None:
    groups = bucketed("aba-aba", size, lambda item: None if item == "-" else item, window)
    assert ["".join(group) for group in groups] == expected


def test_results_of_several_threads_keep_the_order_of_the_items() -> None:
    """The first item waits for the third: they are computed at one time. No more than asked for
    are drawn ahead, and an error comes in the place of its item."""
    third, drawn = threading.Event(), []

    def items() -> Iterator[int]:
        for number in range(9):
            drawn.append(number)
            yield number

    def work(number: int) -> int:
        if number == 2:
            third.set()
        if number == 6:
            raise ZeroDivisionError
        assert third.wait(60)
        return number

    seen = []
    with pytest.raises(ZeroDivisionError):
        for number in map_ahead(work, items(), workers=3, depth=3):
            seen.append(number)
            assert len(drawn) <= number + 4
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("count", range(6))
def test_what_was_drawn_before_an_error_of_the_source_comes_first(count: int) -> None:
    def items() -> Iterator[int]:
        yield from range(count)
        raise ZeroDivisionError

    seen, groups = [], []
    with pytest.raises(ZeroDivisionError):
        for number in map_ahead(lambda number: number, items(), workers=2, depth=3):
            seen.append(number)
    with pytest.raises(ZeroDivisionError):
        for group in bucketed(items(), 2, lambda number: number % 2, 9):
            groups += group
    assert seen == list(range(count)) and sorted(groups) == seen


def test_the_newest_of_a_source_that_does_not_wait() -> None:
    gate, drawn, end = threading.Event(), threading.Event(), threading.Event()

    def numbers() -> Iterator[int]:
        yield 0
        gate.wait(10)
        yield from (1, 2, 3, 4, 5)
        drawn.set()
        end.wait(10)

    found = newest(numbers())
    assert next(found) == 0
    gate.set()
    assert drawn.wait(10)
    assert next(found) == 5
    end.set()
    assert next(found, None) is None


def test_the_newest_ends_with_the_error_of_its_source() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(newest(numbers()))
    found = newest(iter(range(10**9)))  # endless, and left
    next(found)
    found.close()
