"""The Python in the documents runs, page by page, its blocks one after the other."""

from pathlib import Path

import pytest

from tests.docs.pages import NAMES, Block, blocks

# Pages whose Python goes on from what their commands have made.
AFTER_COMMANDS = {"CONTRIBUTING.md", "docs/guides/data.md", "docs/guides/batch.md"}


def python_blocks(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


def execute(page: str) -> None:
    names: dict[str, object] = {"__name__": "document"}
    for block in python_blocks(page):
        code = compile(block.text, str(block), "exec")
        if not block.reason:
            exec(code, names)


@pytest.mark.parametrize(
    "name", [page for page in NAMES if python_blocks(page) and page not in AFTER_COMMANDS]
)
def test_python_runs(name: str, checkout: Path) -> None:
    execute(name)
