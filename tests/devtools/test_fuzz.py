"""The hunt finds leaks, gives the same files for the same seed, and our readers leak nothing."""

import random
from pathlib import Path

import pytest

from frozenseg.devtools.commands import fuzz
from frozenseg.devtools.fuzz.hunt import Hunt
from frozenseg.devtools.fuzz.mutations import MUTATIONS, mutated
from frozenseg.devtools.fuzz.targets import TARGETS, Target
from frozenseg.errors import UserError


def leaky(path: Path) -> None:
    """Leaks on every file without an "e", and refuses those with a "z"."""
    data = path.read_bytes()
    if b"z" in data:
        raise UserError("a z")
    if b"e" not in data:
        raise ValueError("no e")


LEAKY = Target("leaky", ".txt", lambda: [b"hello there, this is a text of letters"], leaky)


def test_twenty_ways_of_damage_and_none_fails_itself() -> None:
    assert len(set(MUTATIONS)) == 20
    numbers = random.Random(0)
    for mutation in MUTATIONS:
        for data in (b"x", bytes(range(256)), b"[1, 2.5, true]"):
            found = {bytes(mutation(bytearray(data), b"other", numbers)) for _ in range(50)}
        assert found != {data}, mutation
    assert isinstance(mutated(b"", b"", numbers), bytes)


def test_a_leak_is_kept_with_its_traceback(tmp_path: Path) -> None:
    hunt = Hunt([LEAKY], tmp_path, seed=3)
    hunt.run(60, files=300)
    count = hunt.counts["leaky"]
    assert count.files == 300 and count.refused and count.leaks
    kept = sorted((tmp_path / "leaks").glob("leaky_3_*.txt"))
    reason = next(path for path in kept if "ValueError: no e" in path.read_text())
    number = int(reason.stem.rpartition("_")[2])
    assert b"e" not in Hunt([LEAKY], tmp_path, seed=3).damaged(LEAKY, number)


def test_the_seed_decides_the_files(tmp_path: Path) -> None:
    first, same, other = (Hunt(TARGETS[:1], tmp_path, seed) for seed in (1, 1, 2))
    files = [[hunt.damaged(TARGETS[0], n) for n in range(20)] for hunt in (first, same, other)]
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_whole_files_are_taken_and_damaged_ones_leak_nothing(
    target: Target, tmp_path: Path
) -> None:
    hunt = Hunt([target], tmp_path, seed=4)
    hunt.run(60, files=60)
    leaks = [path.read_text() for path in tmp_path.glob("leaks/*.txt")]
    assert hunt.counts[target.name].leaks == 0, leaks[0]
    assert hunt.counts[target.name].files == 60


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--files", "5", "--output", str(tmp_path), "--only"]
    assert fuzz.main([*arguments, "vocabulary"]) == 0
    assert "vocabulary              5" in capsys.readouterr().out
    with pytest.raises(UserError, match="no such reader; did you mean"):
        fuzz.main([*arguments, "vocabularie"])
