"""Graceful shutdown: on Ctrl-C, SIGTERM or SIGHUP, finish the current step and save the work."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# In seconds. A terminal and a parent process may both deliver the same Ctrl-C.
DUPLICATE_SIGNAL_WINDOW = 1.0


class GracefulShutdown:
    """Records that the user has asked the run to end.

    requested: whether a signal has arrived while `listening`.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator["GracefulShutdown"]:
        """Within the `with` block, a signal sets `requested`; a second one raises
        KeyboardInterrupt."""
        with handled_by(self._handle, SIGNALS):
            yield self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested and now - self._since > DUPLICATE_SIGNAL_WINDOW:
            raise KeyboardInterrupt  # a second request ends the run at once
        if not self.requested:
            self.requested, self._since = True, now


@contextmanager
def ends_as_by_ctrl_c() -> Iterator[None]:
    """Within the `with` block, SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does.

    Schedulers and `kill` send SIGTERM, and a closed terminal sends SIGHUP. With this exception,
    context managers and `finally` blocks clean up after these signals too.
    """
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise KeyboardInterrupt
        # This is a forked process, which its parent may end by SIGTERM.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    with handled_by(handle, (signal.SIGTERM, signal.SIGHUP)):
        yield


@contextmanager
def handled_by(
    handler: Callable[[int, FrameType | None], Any], numbers: tuple[signal.Signals, ...]
) -> Iterator[None]:
    """Within the `with` block, these signals call `handler`.

    Only the main thread may set handlers; in other threads nothing changes. If SIGHUP is ignored,
    it stays ignored, as `nohup` requires.
    """
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
