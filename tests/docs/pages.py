"""What the documents hold: their pages, and the code blocks with the markers that tests obey.

A marker is an HTML comment on the line above a block, which readers of the page do not see:

    <!-- not run: REASON -->        the block is read, and its commands are parsed, but not run
    <!-- tested with: ARGUMENTS --> arguments that a test adds to each command, to be quick
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "INSTALL.md",
    ROOT / "GETTING_STARTED.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "datasets" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_MARKER = re.compile(r"\s*<!-- (not run|tested with): ?(.*?) ?-->\s*")
_FENCE = re.compile(r"(\s*)```(\w*)\s*")


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its fence, from 1. reason: why it is not run, or "". extra: what a
    test adds to its commands."""

    page: str
    line: int
    language: str
    text: str
    reason: str = ""
    extra: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each command, continued lines joined and comments left out."""
        joined = self.text.replace("\\\n", " ")
        found = [shlex.split(line, comments=True) for line in joined.splitlines()]
        return [[*words, *self.extra] for words in found if words]


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in their order."""
    found: list[Block] = []
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    start, indent, language = 0, "", ""
    for number, line in enumerate(lines, 1):
        fence = _FENCE.fullmatch(line)
        if fence and not start:
            start, indent, language = number, fence[1], fence[2]
        elif fence:
            body = "\n".join(text.removeprefix(indent) for text in lines[start : number - 1])
            found.append(_block(page, start, language, body, lines[start - 2] if start > 1 else ""))
            start = 0
    assert not start, f"{page}:{start}: the block has no end"
    return found


def _block(page: str, line: int, language: str, text: str, above: str) -> Block:
    marker = _MARKER.fullmatch(above)
    kind, words = (marker[1], marker[2]) if marker else ("", "")
    if kind == "not run":
        return Block(page, line, language, text, reason=words)
    return Block(page, line, language, text, extra=tuple(shlex.split(words)))
