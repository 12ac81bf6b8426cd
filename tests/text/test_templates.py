"""Prompt templates: the lists of the field, files, and the cache that must tell them apart."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frozenseg.build.models import build_text_classifier
from frozenseg.config import load_config
from frozenseg.errors import UserError
from frozenseg.text.templates import KNOWN, VILD, find_templates, read_templates
from tests.conftest import TINY_OPTIONS, build_tiny


@pytest.mark.parametrize(
    ("name", "count"), [("vild14", 14), ("fusioner32", 32), ("clip80", 80), ("clip1", 1)]
)
def test_lists_of_the_field(name: str, count: int) -> None:
    templates = find_templates(name)
    assert len(templates) == len(set(templates)) == count
    assert all(template.count("{}") == 1 for template in templates)


def test_their_wording_decides_results() -> None:
    assert find_templates("vild14") is VILD
    fusioner = find_templates("fusioner32")
    assert fusioner[0] == "a bad photo of the {}."
    assert fusioner[16] == "A photo of a {} in the scene"
    assert fusioner[-1] == "This is one masked {} in the scene"
    assert sum(template.endswith(".") for template in fusioner) == 4
    clip = find_templates("clip80")
    assert (clip[0], clip[-1]) == ("a bad photo of a {}.", "a tattoo of the {}.")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("\ufeff# mine\n\na {} here \n {{}} is no braces game, or {\n", encoding="utf-8")
    assert find_templates(str(path)) == ("a {} here", "{{}} is no braces game, or {")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a photo\n", r"line 1, 'a photo', has \{\} 0 times; put it once"),
        (b"a {}\n{} or {}\n", r"line 2, '\{\} or \{\}', has \{\} 2 times"),
        (b"a {}\n\n a {}\n", "line 3 repeats line 1"),
        (b"# none\n", "holds none; write one in each line"),
        (b"", "holds none"),
        (b"a \xff {}\n", "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        find_templates(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_unknown_names_suggest_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"templates vild15: unknown; did you mean vild14"):
        find_templates("vild15")
    with pytest.raises(UserError, match=r"absent.txt: cannot be read"):
        find_templates(str(tmp_path / "absent.txt"))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.text(alphabet="ab {}#.\t", min_size=1, max_size=12), max_size=6))
def test_every_template_of_a_file_has_one_place(lines: list[str]) -> None:
    """Or the file is refused; whatever is taken holds the name once, and nothing else changes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.txt"
        path.write_text("\n".join(lines), encoding="utf-8")
        try:
            templates = read_templates(path)
        except UserError:
            return
    wanted = [line.strip() for line in lines if line.strip() and line.strip()[0] != "#"]
    assert list(templates) == wanted
    assert all(template.replace("{}", "zebra").count("zebra") == 1 for template in templates)


def test_the_cache_tells_templates_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path))
    model, found = build_tiny(), []
    for name in (*KNOWN, *KNOWN):
        cfg = load_config(None, [*TINY_OPTIONS, "MODEL.TEXT.TEMPLATES", name])
        classifier = build_text_classifier(cfg, model)
        found.append((classifier.vectors(["zebra"]), classifier.encoded))
    assert [encoded for _, encoded in found] == [1] * len(KNOWN) + [0] * len(KNOWN)
    for first, again in zip(found[: len(KNOWN)], found[len(KNOWN) :], strict=True):
        assert first[0].equal(again[0])
    assert not found[0][0].allclose(found[1][0], atol=1e-4)
    assert not found[0][0].allclose(found[2][0], atol=1e-4)
