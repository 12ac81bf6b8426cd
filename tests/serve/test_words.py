"""The words of a request: what is refused costs little."""

import difflib
import json
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from frozenseg.serve.jobs import Refusal
from frozenseg.serve.limits import Limits
from frozenseg.serve.words import MOST_COMPARED, read_vocabulary
from frozenseg.text.parsing import rows_of

ALIKE = "ab" * 48  # of which names are made that resemble one another, at the length that is taken


@pytest.fixture
def compared(monkeypatch) -> list[int]:
    """The numbers of names among which the nearest were sought."""
    counts: list[int] = []

    def close(word: str, names: list[str], **_: object) -> list[str]:
        counts.append(len(names))
        return names[:1]

    monkeypatch.setattr(difflib, "get_close_matches", close)
    return counts


def names(count: int, more: str = "") -> str:
    return "; ".join(f"{ALIKE}{more}{number}" for number in range(count))


@pytest.mark.parametrize(
    ("vocabulary", "line"),
    [
        (names(1080, ALIKE), "may have at most 100 letters"),
        ("; ".join(f"n {number}" for number in range(2001)), "2001 names"),
        (names(1080), "things: 'boat' is not in the vocabulary"),
    ],
)
def test_a_thing_is_not_compared_with_very_many_names(compared, vocabulary, line) -> None:
    with pytest.raises(Refusal, match=line) as refused:
        read_vocabulary(vocabulary, "boat", Limits())
    assert refused.value.status == 422 and compared == []


def test_a_thing_that_is_misspelt_has_a_suggestion(compared) -> None:
    with pytest.raises(Refusal, match=r"'boat' is not in the vocabulary; did you mean"):
        read_vocabulary(names(MOST_COMPARED), "boat", Limits())
    assert compared == [MOST_COMPARED]


@pytest.mark.parametrize("count", [3, 300])
def test_things_of_few_and_of_many_names_are_the_same(count: int) -> None:
    words = "; ".join(f"name {number}" for number in range(count))
    for things, flags in [("NAME_1", {1}), ('["name 0", ["name 2"]]', {0, 2}), ("[]", set())]:
        read = read_vocabulary(words, things, Limits())
        assert {index for index, thing in enumerate(read.is_thing) if thing} == flags
    for blank in ("", "  "):
        assert not any(read_vocabulary(words, blank, Limits()).is_thing)
    assert all(read_vocabulary(words, None, Limits()).is_thing)


# ---- the page reads what is typed as the commands do

TYPED = [
    *("car, truck; road", '"salt, sea"; x', '"a; b", c', " a ,, b ; c ; ", '"6"" pipe"; y'),
    *('5" pipe; 6" pipe', 'the "big; one"; x', 'a "b, c" d; e', '"abc; d', 'x, "a" , y', '"a" b'),
]
PAGE_SAYS = """
import { endsInQuotes, formatNames, parseWords } from "./words.mjs";
const classes = JSON.parse(process.argv[2]).map(parseWords);
const again = classes.map((words) => parseWords(words.map(formatNames).join("; ")));
const open = ['"a;', 'x, "a;', '"a"";'].map(endsInQuotes);
const closed = ['"a;b";', '5" pipe;', 'a; b', '"a" b;'].map(endsInQuotes);
console.log(JSON.stringify({ classes, again, open, closed }));
"""


def test_the_page_reads_words_as_the_commands_do(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js: apt-get install nodejs")
    # Without a package.json Node.js takes only this ending for a module.
    page = resources.files("frozenseg.serve") / "page"
    (tmp_path / "words.mjs").write_text((page / "words.js").read_text())
    (tmp_path / "say.mjs").write_text(PAGE_SAYS)
    command = [node, str(tmp_path / "say.mjs"), json.dumps(TYPED)]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert all(said["open"]) and not any(said["closed"])
    assert said["again"] == said["classes"]
    assert said["classes"] == [[list(row.names) for row in rows_of(text)] for text in TYPED]
