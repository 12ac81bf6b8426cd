"""Graceful shutdown: on Ctrl-C, SIGTERM or SIGHUP, finish the current step and keep the work."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# In seconds: a terminal and a parent process may both deliver one and the same Ctrl-C.
DUPLICATE_SIGNAL_WINDOW = 1.0


class GracefulShutdown:
    """Notes that the user has asked the run to end.

    requested: whether a signal has come while `listening`.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator["GracefulShutdown"]:
        """Inside, the signals set `requested`; a second one raises KeyboardInterrupt."""
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
    """Inside, SIGTERM (a scheduler, `kill`) and SIGHUP (a closed terminal) raise KeyboardInterrupt
    as Ctrl-C does, so that context managers and `finally` clean up for them, too."""
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise KeyboardInterrupt
        # This is a forked process, which its parent ends by SIGTERM.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    with handled_by(handle, (signal.SIGTERM, signal.SIGHUP)):
        yield


@contextmanager
def handled_by(
    handler: Callable[[int, FrameType | None], Any], numbers: tuple[signal.Signals, ...]
) -> Iterator[None]:
    """Inside, these signals call `handler`.

    Only the main thread may set handlers; in another thread nothing changes. A SIGHUP that is
    ignored stays ignored: `nohup` asks for that.
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
