"""Links of the documents lead somewhere, and what they name of the code exists."""

import importlib
import re
from pathlib import Path

import pytest

import frozenseg
from frozenseg.commands import COMMANDS
from frozenseg.config import IGNORED
from frozenseg.config_keys import KEYS
from frozenseg.config_values import FIXED
from tests.docs.configuration_page import PAGE, explanations, page
from tests.docs.import_picture import PICTURE, arrows
from tests.docs.pages import NAMES, ROOT

DOCS = ROOT / "docs"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
SECTIONS = ("MODEL", "INPUT", "DATASETS", "DATALOADER", "SOLVER", "TEST", "LOG")


def prose(name: str) -> str:
    """A page without its blocks of code and its comments."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"^\s*```.*?^\s*```\s*$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown's `toc` makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(str(path.relative_to(ROOT))), re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads]
    return {re.sub(r"[-\s]+", "-", word) for word in words}


@pytest.mark.parametrize("name", NAMES)
def test_links_resolve(name: str) -> None:
    path = ROOT / name
    for target in LINK.findall(prose(name)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        other = (path.parent / file).resolve() if file else path
        assert other.exists(), f"{name}: {target} is not there"
        if path.is_relative_to(DOCS):  # a site is made of docs/ alone
            assert other.is_relative_to(DOCS), f"{name}: {target} is outside the site"
        if anchor:
            assert anchor in anchors(other), f"{name}: {target}: no such heading"


@pytest.mark.parametrize("name", NAMES)
def test_what_pages_name_exists(name: str) -> None:
    """Modules and their names, files of the repository, and configuration keys."""
    for code in CODE.findall(prose(name)):
        if re.fullmatch(r"frozenseg(\.\w+)+(\(\))?", code):
            _resolve(code.removesuffix("()"), name)
        elif re.fullmatch(r"(frozenseg|tests|configs|logs|datasets|demo|docs)/[\w./-]+", code):
            assert (ROOT / code).exists() or code.startswith(MADE), f"{name}: {code} is not there"
        elif (word := code.split()[0]).split(".")[0] in SECTIONS and "." in word:
            known = {*KEYS, *IGNORED}
            sections = {key.rsplit(".", depth)[0] for key in known for depth in (1, 2)}
            assert word in known | sections, f"{name}: no key {word}"


MADE = ("datasets/small_world", "datasets/prepare_")


def _resolve(dotted: str, page_name: str) -> None:
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            assert hasattr(found, part), f"{page_name}: {dotted} is not there"
            found = getattr(found, part)
        return


def test_commands_of_the_logs_are_those_of_now() -> None:
    """Programs that have moved into `frozenseg` are no longer told by their old files."""
    for path in (ROOT / "logs").rglob("README.md"):
        for file in re.findall(r"(?:tools|demo)/\w+\.py", path.read_text(encoding="utf-8")):
            assert (ROOT / file).is_file(), f"{path.relative_to(ROOT)}: {file} is not there"


def test_the_reference_names_what_exists() -> None:
    text = (DOCS / "api" / "python.md").read_text(encoding="utf-8")
    for dotted in re.findall(r"^::: (\S+)$", text, re.MULTILINE):
        _resolve(dotted, "docs/api/python.md")


def test_the_public_names_are_listed_and_explained() -> None:
    listed = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `frozenseg\.(\w+)` \|", listed, re.MULTILINE)
    assert sorted(names) == sorted(frozenseg.__all__)
    reference = (DOCS / "api" / "python.md").read_text(encoding="utf-8")
    explained = re.findall(r"^::: frozenseg\.(\w+)$", reference, re.MULTILINE)
    assert {*explained, "__version__"} == set(frozenseg.__all__)


def test_every_command_is_explained() -> None:
    """The tables of the page are those of `frozenseg --help`."""
    text = (DOCS / "api" / "commands.md").read_text(encoding="utf-8")
    for group, commands in COMMANDS.items():
        rows = [f"| `{name}` | {row[1]} |" for name, row in commands.items()]
        table = "\n".join([f"## {group}\n", "| command | what it does |", "| --- | --- |", *rows])
        assert f"{table}\n\n" in text, f"docs/api/commands.md: {group}"


def test_every_key_is_explained() -> None:
    """`python -m tests.docs.configuration_page` makes the page anew."""
    assert PAGE.read_text(encoding="utf-8") == page()
    words = explanations()
    assert [key for key in KEYS if not words[key] and KEYS[key].rule is not FIXED] == []


def test_the_table_of_extras_says_what_each_brings() -> None:
    """Every extra has a row of docs/install.md, which names every package and extra it brings."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.partition("[project.optional-dependencies]\n")[2].partition("\n\n")[0]
    rows = (DOCS / "install.md").read_text(encoding="utf-8").splitlines()
    for line in section.splitlines():
        extra, _, brought = line.partition(" = ")
        (row,) = (row for row in rows if row.startswith(f"| `{extra}` |"))
        for requirement in re.findall(r'"([^"]+)"', brought) if extra != "all" else []:
            package = re.match(r"frozenseg\[(\w+)\]|([\w-]+)", requirement)
            assert package is not None
            word = f"`{package[1]}`" if package[1] else package[2]
            assert word in row.partition("|")[2].partition("|")[2], f"{extra}: {word}"


def test_the_picture_of_imports_is_that_of_now() -> None:
    """`python -m tests.docs.import_picture` draws it anew."""
    found = set(re.findall(r'<g id="(\w+)-(\w+)"', PICTURE.read_text(encoding="utf-8")))
    assert found == arrows()


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
