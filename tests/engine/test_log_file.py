"""log.txt: what reaches it, what a host goes on to show, and how it ends."""

import logging
import re
from pathlib import Path

import pytest

from frozenseg.engine.log_file import FILE_ONLY, log_file
from frozenseg.errors import UserError, WriteError
from tests.disk import files_end_at

ours = logging.getLogger("frozenseg.tests")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a host sees that has set up nothing but a handler for warnings at the root."""
    lines: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: lines.append(record.getMessage()))
    root = logging.getLogger()
    root.addHandler(handler)
    yield lines
    root.removeHandler(handler)


def lines_of(folder: Path) -> list[str]:
    return (folder / "log.txt").read_text().splitlines()


def test_lines_have_time_and_level_and_a_run_appends(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with log_file(tmp_path):
            ours.info("%s begins", name)
            ours.debug("not this")
    form = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO    (.*)")
    said = [form.fullmatch(line)[1] for line in lines_of(tmp_path)]
    assert said[0::2] == ["one begins", "two begins"]
    assert all(re.fullmatch(r"ended after \d+ s", line) for line in said[1::2])


def test_a_host_is_shown_what_it_was_shown_before(tmp_path: Path, shown: list[str]) -> None:
    package, other = logging.getLogger("frozenseg"), logging.getLogger("host")
    before = package.level, list(package.handlers), package.getEffectiveLevel()
    with log_file(tmp_path):
        ours.info("a step")
        ours.warning("a warning")
        ours.warning("a table", extra=FILE_ONLY)
        other.warning("of the host")
    ours.info("afterwards")
    assert shown == ["a warning", "of the host"]
    assert before == (package.level, list(package.handlers), package.getEffectiveLevel())
    text = (tmp_path / "log.txt").read_text()
    assert "a step" in text and "a table" in text and "of the host" not in text


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (UserError("no\nroom"), r"ERROR +ended by an error: no\\nroom"),
        (KeyboardInterrupt(), "ERROR +interrupted"),
        (ZeroDivisionError("x"), "ZeroDivisionError: x"),
    ],
)
def test_the_end_is_told(tmp_path: Path, shown: list[str], error: BaseException, last: str) -> None:
    with pytest.raises(type(error)), log_file(tmp_path):
        raise error
    assert re.search(f"{last}$", lines_of(tmp_path)[-1])
    assert not shown  # who calls shows the error


def test_a_folder_in_its_place_is_known_at_once(tmp_path: Path) -> None:
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(WriteError, match=r"log.txt: cannot be written"), log_file(tmp_path):
        pass


def test_a_full_disk_ends_the_file_and_not_the_run(tmp_path: Path, shown: list[str]) -> None:
    with files_end_at(100), log_file(tmp_path):
        ours.info("room for this line")
        ours.info("lost" * 30)
        ours.info("lost too")
    assert "room for this line" in lines_of(tmp_path)[0]
    (line,) = shown
    assert re.search(r"log.txt cannot be written .*too large.*: it ends here", line)
