"""Every command in the documents is run, in the order of its page, or parsed where it says why it
is not run."""

import argparse
import importlib.util
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frozenseg.commands import COMMANDS
from frozenseg.config import load_config
from frozenseg.data.benchmarks import find_benchmark
from tests.docs.pages import NAMES, ROOT, Block, blocks
from tests.docs.test_python import AFTER_COMMANDS, execute

MODULES = {name: row[0] for group in COMMANDS.values() for name, row in group.items()}
SHELL = ("bash", "console")
# Published files that are programs of ours.
PROGRAMS = {"tools/train_net.py": "train_net", "demo/demo.py": "demo"}
# Of other programs, which a block that is not run may name.
OTHERS = (
    "make",
    "git",
    "pip",
    "python",
    "python3",
    "pre-commit",
    "curl",
    "docker",
    "apt-get",
    "npm",
    "tar",
    "export",
)


def shell_blocks(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language in SHELL]


def with_commands() -> list[str]:
    return [page for page in NAMES if any(not block.reason for block in shell_blocks(page))]


def not_run() -> list[tuple[Block, list[str]]]:
    return [
        (block, words)
        for page in NAMES
        for block in shell_blocks(page)
        if block.reason
        for words in block.commands()
    ]


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """Our command's name and its arguments, wherever in a line it stands; None for another
    program's. `--import MODULE` is taken away, as the program does."""
    if "--import" in words:
        place = words.index("--import")
        words = words[:place] + words[place + 2 :]
    for place, word in enumerate(words):
        if word in PROGRAMS:
            return PROGRAMS[word], words[place + 1 :]
        if Path(word).name == "frozenseg":
            return words[place + 1], words[place + 2 :]
    return None


def start(name: str, arguments: list[str]) -> Any:
    return importlib.import_module(f"{MODULES[name]}.{name}").main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", with_commands())
def test_commands_run(name: str, checkout: Path) -> None:
    for block in shell_blocks(name):
        for words in block.commands() if not block.reason else ():
            command = ours(words)
            assert command is not None, f"{block}: {words[0]} is not ours; say why it is not run"
            try:
                status = _help(command) or start(*command)
            except SystemExit as end:
                status = end.code
            assert status in (0, None), f"{block}: {' '.join(words)} ends with {status}"
    if name in AFTER_COMMANDS:
        execute(name)


def _help(command: tuple[str, list[str]]) -> None:
    """`frozenseg --help` and `frozenseg --version` are the lines without a command."""
    if command[0] in ("--help", "--version"):
        raise SystemExit(0)


class Parsed(Exception):
    """Thrown in place of the work behind a command line that argparse has accepted."""


@pytest.mark.parametrize(
    ("block", "words"),
    not_run(),
    ids=[f"{block}-{number}" for number, (block, _) in enumerate(not_run())],
)
def test_what_is_not_run_can_be_parsed(
    block: Block, words: list[str], checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(block.reason) > 10, f"{block}: say why it is not run"
    command = ours(words)
    if command is None:
        _check_other(block, words)
        return
    seen: list[argparse.Namespace] = []

    def stopping(parse: Callable[..., argparse.Namespace]) -> Callable[..., argparse.Namespace]:
        def parse_and_stop(*args: Any, **kwargs: Any) -> argparse.Namespace:
            seen.append(parse(*args, **kwargs))
            raise Parsed

        return parse_and_stop

    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(parse))
    with pytest.raises(Parsed):
        start(*command)
    _check_configuration(vars(seen[0]))


def _check_configuration(arguments: dict[str, Any]) -> None:
    """The YAML file and the KEY VALUE options together, and the data sets that they name."""
    config, options = arguments.get("config_file"), arguments.get("options") or []
    if config is None and not options:
        return
    cfg = load_config(config, options)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        find_benchmark(name)


def _check_other(block: Block, words: list[str]) -> None:
    """Another program is known, and what it is given of the repository is there."""
    program = Path(next(word for word in words if "=" not in word)).name
    assert program in OTHERS, f"{block}: unknown program {program}"
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), f"{block}: no such target"
    for word in words:
        if word.startswith("tests."):
            assert importlib.util.find_spec(word), f"{block}: {word} is not there"
        elif word.startswith("tests/"):
            assert (ROOT / word.split("::")[0]).exists(), f"{block}: {word} is not there"


def test_what_is_not_run_is_told() -> None:
    """A warning, which pytest prints at the end, with the number and the reasons."""
    run = sum(len(b.commands()) for page in NAMES for b in shell_blocks(page) if not b.reason)
    reasons = [f"  {block} {' '.join(words[:2])}: {block.reason}" for block, words in not_run()]
    head = f"{run} commands of the documents are run, {len(reasons)} are parsed only:"
    warnings.warn("\n".join([head, *reasons]), stacklevel=1)


def test_no_command_hides_in_a_block_without_a_language() -> None:
    for page in NAMES:
        for block in blocks(page):
            first = block.text.split()[:1]
            hidden = not block.language and first and first[0] in ("frozenseg", *OTHERS)
            assert not hidden, f"{block}: mark the block as bash"
