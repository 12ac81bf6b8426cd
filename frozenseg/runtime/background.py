"""Background threads: prefetch inputs and write results while the device computes."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")

_END: Any = object()


def prefetch(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """Yield the items in order, while a thread makes up to `depth` further items.

    An error in making an item is raised in its place.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        waiting = deque(pool.submit(next, source, _END) for _ in range(max(1, depth)))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, source, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


class AsyncWriter:
    """A thread that runs calls one after another, with at most `depth` of them pending.

    An error of a call is raised by a later `do`, or at the end of the `with` block. If the block
    itself fails, pending calls still run.
    """

    def __init__(self, depth: int) -> None:
        self.depth = max(1, depth)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._waiting: deque[Future[Any]] = deque()

    def do(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run a call in the thread; waits while `depth` calls are pending."""
        while len(self._waiting) >= self.depth:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(function, *arguments))

    def finish(self) -> None:
        """Wait for all pending calls, and raise their first error."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> "AsyncWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._pool.shutdown()  # waits for pending calls


def batched(items: Iterable[Item], size: int, key: Callable[[Item], Any]) -> Iterator[list[Item]]:
    """Batches of at most `size` consecutive items that have the same key."""
    for _, neighbours in itertools.groupby(items, key):
        while batch := list(itertools.islice(neighbours, size)):
            yield batch
