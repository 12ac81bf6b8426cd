"""Ctrl-C and SIGTERM as a wish: the step at work is finished and a checkpoint written."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
IMPATIENCE = (
    1.0  # seconds; a terminal and a parent process may both deliver one and the same Ctrl-C
)


class StopRequest:
    """Whether the user has asked the run to end.

    Worker processes that are forked inside `listening` inherit the handler, so that Ctrl-C, which a
    terminal sends to them too, does not end them before the step at work.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested and now - self._since > IMPATIENCE:
            raise KeyboardInterrupt  # asked twice: now
        if not self.requested:
            self.requested, self._since = True, now
