"""What a row of the campaign says."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

World = Path
"""A folder with what cases begin with (`tests.faults.world`): not to be changed."""
Make = Callable[[World, Path], object]
"""Makes the input of a case: from the world, in the folder of the case."""


@dataclass(frozen=True)
class Case:
    """One hostile input, and how the command must end.

    name: of the test. command: a command line, without "frozenseg"; the folder that it runs in has
    the link "world" to the world. status: those that are right. words: what the output must match.
    make: makes the input. files: what must be there afterwards.
    gone: what must not. fast: whether it runs with the fast
    tests. seconds: after which it counts as hung.
    """

    name: str
    command: str
    status: int | tuple[int, ...] = 2
    words: str = ""
    make: Make | None = None
    files: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    fast: bool = False
    seconds: float = 120


def raw(name: str, content: bytes | str) -> Make:
    """A file with this content."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return lambda world, folder: (folder / name).write_bytes(data)


def copied(name: str) -> Make:
    """A copy of a file or folder of the world, to be changed."""

    def make(world: World, folder: Path) -> None:
        source = world / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy(source, folder / name)

    return make


def both(*steps: Make) -> Make:
    """Several steps after each other."""
    return lambda world, folder: [step(world, folder) for step in steps]
