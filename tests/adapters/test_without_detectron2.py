"""Where detectron2 is not installed: one line that says so, and nothing else changes."""

import subprocess
import sys

import pytest

ABSENT = "import sys; sys.modules['detectron2'] = None  # what importing it then says is the same\n"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ABSENT + code, *arguments], capture_output=True, text=True
    )


@pytest.mark.parametrize("module", ["detectron2", "detectron2.config", "detectron2.meta_arch"])
def test_the_import_says_what_is_missing_and_how_to_get_it(module: str) -> None:
    done = run(
        "from frozenseg.errors import UserError\n"
        f"try:\n    import frozenseg.adapters.{module}\n"
        "except ImportError as error:\n"
        "    print(isinstance(error, UserError), error)"
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith("True detectron2 is not installed; ")
    assert "git clone https://github.com/facebookresearch/detectron2" in line
    assert "pip install" in line and "INSTALL.md" in line


def test_the_command_says_it_in_one_line() -> None:
    code = (
        "from frozenseg.commands import run\n"
        "from frozenseg.commands.detectron2_train_net import main\nrun(main)"
    )
    done = run(code, "--eval-only")
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: detectron2 is not installed; ")
    assert run(code, "--help").returncode == 0


def test_a_detectron2_that_does_not_load_is_told_apart(tmp_path, monkeypatch) -> None:
    """As after an update of torch, when its compiled part lacks symbols."""
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("raise ImportError('undefined symbol')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport frozenseg.adapters.detectron2"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "detectron2 cannot be loaded (undefined symbol); " in done.stderr.splitlines()[-1]


def test_nothing_of_ours_imports_it_unasked() -> None:
    """Apart from the adapter, the command alone, and that within its functions."""
    done = run(
        "import importlib, pkgutil, frozenseg\n"
        "for found in pkgutil.walk_packages(frozenseg.__path__, 'frozenseg.'):\n"
        "    if '.adapters.detectron2' not in found.name:\n"
        "        importlib.import_module(found.name)\n"
        "print('all imported')"
    )
    assert done.stdout == "all imported\n", done.stderr
