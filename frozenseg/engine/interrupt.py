"""Graceful shutdown: on Ctrl-C, SIGTERM or SIGHUP, finish the current step and save the work."""

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from frozenseg.errors import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# In seconds. A terminal and a parent process may both deliver the same Ctrl-C.
DUPLICATE_SIGNAL_WINDOW = 1.0
SENT_AGAIN = 1.0  # seconds after which a signal that an import has ignored comes again


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

    Libraries ignore an exception in the middle of their imports, or make another one of it. A
    signal during an import therefore comes again if the block goes on, and errors of the program
    that follow a signal become KeyboardInterrupt.
    """
    process, arrived, comes_again = os.getpid(), False, False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal arrived, comes_again
        if os.getpid() != process and number != signal.SIGINT:
            # This is a forked process, which its parent may end by SIGTERM.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if comes_again:
            return
        arrived = True
        if _is_importing(frame):
            comes_again = True
            # Not a `Timer`, whose locks the interrupted code may hold.
            _thread.start_new_thread(send_again, (number,))
        raise KeyboardInterrupt

    def send_again(number: int) -> None:
        nonlocal comes_again
        time.sleep(SENT_AGAIN)
        if comes_again:
            comes_again = False
            os.kill(process, number)

    # A shell that starts a command in the background has it ignore Ctrl-C.
    own = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with handled_by(handle, SIGNALS if own else (signal.SIGTERM, signal.SIGHUP)):
        try:
            yield
        except (UserError, OSError, MemoryError):  # not made of a KeyboardInterrupt
            raise
        except Exception as error:
            if arrived:
                raise KeyboardInterrupt from error
            raise
        finally:
            comes_again = False


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


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
