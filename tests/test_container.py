"""What is sent to the builder of the container."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def lines(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line]


def test_data_sets_weights_and_all_else_that_git_ignores_stay_here() -> None:
    """They have gigabytes. The builder reads `datasets/*/` as `datasets/*`, and the wheel needs
    README.md of that folder."""
    sent = set(lines(".dockerignore"))
    for line in lines(".gitignore"):
        name = line.strip("/")
        assert (name if "/" in line.rstrip("/") else f"**/{name}") in sent, line
    assert "!datasets/README.md" in sent
