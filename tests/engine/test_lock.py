"""One run in a folder at a time: a second is refused, a killed one is no obstacle."""

import errno
import fcntl
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from frozenseg.engine.lock import LOCK_FILE, only_writer
from frozenseg.errors import UserError, WriteError

HOLDER = """
import sys, time
from pathlib import Path
from frozenseg.engine.lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_is_refused_and_told_who_the_first_is(tmp_path: Path, holder) -> None:
    with pytest.raises(UserError, match="another run is at work") as caught, only_writer(tmp_path):
        pass
    assert f"process {holder.pid} on " in str(caught.value) and "since 2" in str(caught.value)
    assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == holder.pid


def test_a_killed_one_holds_nothing(tmp_path: Path, holder) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with only_writer(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_forked_process_that_lives_on_holds_nothing(tmp_path: Path) -> None:
    """As a data worker that is slow to end."""
    context = multiprocessing.get_context("fork")
    with only_writer(tmp_path):
        worker = context.Process(target=signal.pause)
        worker.start()
    try:
        held = subprocess.run(
            [sys.executable, "-c", HOLDER.replace("600", "0"), str(tmp_path)],
            capture_output=True,
            text=True,
        )
        assert held.stdout == "held\n"
    finally:
        worker.kill()
        worker.join()


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch, caplog) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with caplog.at_level(logging.WARNING, logger="frozenseg"), only_writer(tmp_path):
        pass
    assert "this file system has no locks (No locks available)" in caplog.text


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="cannot be written"), only_writer(tmp_path / "file"):
        pass
