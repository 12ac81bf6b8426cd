"""How commands end: one line and a status, whatever the terminal, the disk or a library says."""

import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import frozenseg
from frozenseg.commands import ALIASES, COMMANDS, main, run
from frozenseg.engine.log_file import FILE_ONLY
from frozenseg.errors import UserError, one_line
from frozenseg.recipes import packaged_config

REPOSITORY = Path(__file__).parents[2]


def ended(function: Callable[[list[str]], int | None]) -> int:
    with pytest.raises(SystemExit) as caught:
        run(function)
    return caught.value.code or 0


def script(code: str, **more: object) -> subprocess.CompletedProcess:
    """`code` as the body of a command's `main`, in a process of its own."""
    body = f"import sys\nfrom frozenseg.commands import run\ndef main(argv):\n {code}\nrun(main)"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run([sys.executable, "-c", body], cwd=REPOSITORY, **options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
@pytest.mark.parametrize("letters", [10, 1_000_000])
def test_standard_output_on_a_full_disk(letters: int) -> None:
    with open("/dev/full", "w") as full:
        found = script(f"print('a' * {letters})", stdout=full)
    assert found.returncode == 2
    assert found.stderr.count(b"\n") == 1 and b"standard output: cannot be written" in found.stderr


def test_a_reader_that_has_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    found = script("print('a' * 1000000)", stdout=writing)
    os.close(writing)
    assert found.returncode == 141 and found.stderr == b""


def test_a_process_that_is_killed() -> None:
    """As the system does where memory runs out, with a process of a preparation."""
    # Within `with`, as there: Python would otherwise close the pool twice at its exit, by chance.
    pool = "import os; from concurrent.futures import ProcessPoolExecutor as Pool"
    found = script(f"{pool}\n with Pool(1) as pool: pool.submit(os.abort).result()")
    assert found.returncode == 2 and found.stderr.count(b"\n") == 1
    assert b"error: one of the processes was killed" in found.stderr


def test_a_device_without_memory(capsys: pytest.CaptureFixture[str]) -> None:
    def full(argv: list[str]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nSee docs")

    assert ended(full) == 2
    line = "error: out of memory (CUDA out of memory. Tried to allocate 20.00 MiB."
    assert capsys.readouterr().err.startswith(line)


def test_lines_for_a_file_are_not_on_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a command writes no log.txt, as `view_samples`."""

    def says(argv: list[str]) -> None:
        logger = logging.getLogger("frozenseg.build.training_data")
        logger.info("images")
        logger.info("each class", extra=FILE_ONLY)

    assert ended(says) == 0
    assert capsys.readouterr().err == "images\n"


def test_letters_that_the_terminal_lacks() -> None:
    code = "print('\\u6f22\\xe9 \\udce9'); print('\\u6f22', file=sys.stderr)"
    found = script(code, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": "."})
    assert (found.returncode, found.stderr) == (0, rb"\u6f22" + b"\n")
    assert found.stdout == rb"\u6f22\xe9 \udce9" + b"\n"


def test_a_message_is_one_line(capsys: pytest.CaptureFixture) -> None:
    def fails(argv: list[str]) -> None:
        raise UserError("a\nb\x1b[31m: no such file")

    assert ended(fails) == 2
    assert capsys.readouterr().err == "error: a\\nb\\x1b[31m: no such file\n"
    assert one_line("naïve 漢 words: 1, 2") == "naïve 漢 words: 1, 2"


def test_the_log_obeys_no_file_name(capsys: pytest.CaptureFixture) -> None:
    def warns(argv: list[str]) -> None:
        logging.getLogger("frozenseg.test").warning("%s: odd\nsecond line", "a\x1b[31m\rb")

    assert ended(warns) == 0
    assert capsys.readouterr().err.endswith("a\\x1b[31m\\rb: odd\nsecond line\n")


def test_the_log_of_a_command_ends_with_it(capsys: pytest.CaptureFixture) -> None:
    """A second command in the same process writes to its own standard error, and once."""
    package = logging.getLogger("frozenseg")
    before = (list(package.handlers), package.level)
    for _ in range(2):
        assert ended(lambda argv: logging.getLogger("frozenseg.test").info("said")) == 0
        assert capsys.readouterr().err == "said\n"
        assert (package.handlers, package.level) == before


def test_a_file_that_cannot_be_used_is_named(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    def opens(argv: list[str]) -> None:
        open(tmp_path / "gone")  # noqa: SIM115

    assert ended(opens) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'gone'}: No such file or directory\n"


def test_other_errors_are_not_hidden() -> None:
    def fails(argv: list[str]) -> None:
        raise OSError("a bug")

    with pytest.raises(OSError, match="a bug"):
        run(fails)


def test_warnings_of_libraries_stay_away(capsys: pytest.CaptureFixture) -> None:
    def warns(argv: list[str]) -> None:
        warnings.warn("noise", UserWarning, stacklevel=1)

    before = list(warnings.filters)
    assert ended(warns) == 0
    assert capsys.readouterr().err == "" and warnings.filters == before


def test_an_unknown_command(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["frozenseg", "dema"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2 and "did you mean demo" in capsys.readouterr().err


def test_the_package_is_a_program(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "frozenseg", "mean_results", str(tmp_path / "gone.json")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr) == (
        2,
        f"error: {tmp_path / 'gone.json'}: no such file\n",
    )


@pytest.mark.parametrize("program", [["-m", "frozenseg", "demo"], ["demo/demo.py"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_first_seconds(
    program: list[str], number: signal.Signals, tmp_path: Path
) -> None:
    """While the modules of the command are imported: here tqdm, which the demo imports at its
    top."""
    stop = f"import os\nos.kill(os.getpid(), {number:d})\ndef __getattr__(name): return None\n"
    (tmp_path / "tqdm.py").write_text(stop)
    paths = os.pathsep.join((str(tmp_path), str(REPOSITORY)))
    found = subprocess.run(
        [sys.executable, *program, "--output", str(tmp_path / "out")],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(
    "name", [*(name for group in COMMANDS.values() for name in group), *ALIASES]
)
def test_every_command_has_help(
    name: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["frozenseg", name, "--help"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert f"usage: frozenseg {name} [-h]" in capsys.readouterr().out


def test_help_groups_the_commands_and_the_version_is_said(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option in ("--help", "--version"):
        monkeypatch.setattr(sys, "argv", ["frozenseg", option])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 0
    said = capsys.readouterr().out
    assert all(f"\n{group}:\n" in said for group in COMMANDS)
    assert said.endswith(f"frozenseg {frozenseg.__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["evaluate"],
        ["demo", "--output", "OUT"],
        ["make_sam_masks", "--output", "OUT"],
        ["convert_checkpoint", "MODEL", "OUT.safetensors"],
        ["analyze_model"],
        ["benchmark"],
        ["measure_memory"],
    ],
)
def test_a_configuration_that_is_not_there_is_one_line(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = packaged_config("small").with_name("model.safetensors")
    places = {"OUT": str(tmp_path / "out"), "OUT.safetensors": str(tmp_path / "out.safetensors")}
    places["MODEL"] = str(model)
    filled = [places.get(argument, argument) for argument in arguments]
    gone = str(tmp_path / "gone.yaml")
    monkeypatch.setattr(sys, "argv", ["frozenseg", *filled, "--config-file", gone])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.startswith("error: ") and gone in said and said.count("\n") == 1
