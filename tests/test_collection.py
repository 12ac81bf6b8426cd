"""pytest finds every test: it passes over folders by their names, and says nothing."""

from fnmatch import fnmatch
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


def test_no_folder_of_tests_is_passed_over(request: pytest.FixtureRequest) -> None:
    patterns = request.config.getini("norecursedirs")
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    assert Path("build") in folders
    passed_over = [
        str(folder)
        for folder in folders
        if any(fnmatch(name, pattern) for name in folder.parts for pattern in patterns)
    ]
    assert not passed_over
