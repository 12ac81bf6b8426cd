"""Work beside the device's: reading ahead of it and writing behind it, one thread each."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")

_END: Any = object()


def prefetch(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """The items in their order, made by a thread up to `depth` ahead of the one in use.

    An error in making one is raised where that item would have come.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        waiting = deque(pool.submit(next, source, _END) for _ in range(max(1, depth)))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, source, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


class AsyncWriter:
    """Calls done one after another by a thread, at most `depth` of them outstanding.

    What a call raises is raised by a later `do`, or at the end of the block. If the block itself
    fails, calls outstanding are still done.
    """

    def __init__(self, depth: int) -> None:
        self.depth = max(1, depth)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._waiting: deque[Future[Any]] = deque()

    def do(self, function: Callable[..., Any], *arguments: Any) -> None:
        while len(self._waiting) >= self.depth:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(function, *arguments))

    def finish(self) -> None:
        """Wait until all is done."""
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
            self._pool.shutdown()  # waits for what is outstanding


def groups(items: Iterable[Item], size: int, key: Callable[[Item], Any]) -> Iterator[list[Item]]:
    """Neighbours of equal key together, at most `size` of them."""
    group: list[Item] = []
    for item in items:
        if group and key(item) != key(group[0]):
            yield group
            group = []
        group.append(item)
        if len(group) >= size:
            yield group
            group = []
    if group:
        yield group
