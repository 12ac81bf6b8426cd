"""Where detectron2 is not installed: one line that says so, and nothing else changes."""

import ast
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from frozenseg.commands import run as run_command
from frozenseg.commands.detectron2_train_net import main, read_config
from frozenseg.commands.train_net import Request
from frozenseg.config import default_config
from frozenseg.errors import UserError
from tests.test_imports import PACKAGE, imported

HOST = re.compile(r"detectron2(\.|$)|frozenseg\.adapters\.")
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
    assert "pip install" in line and "git clone" in line


def test_the_command_says_it_in_one_line(monkeypatch, capsys) -> None:
    for name in list(sys.modules):
        if name.startswith("frozenseg.adapters.detectron2"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.setattr(sys, "argv", ["detectron2_train_net", "--eval-only"])
    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    captured = capsys.readouterr()
    assert stopped.value.code == 2 and captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: detectron2 is not installed; ")
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0 and "This needs detectron2" in capsys.readouterr().out


@pytest.mark.parametrize("eval_only", [False, True])
def test_a_set_that_is_named_twice_is_refused_before_a_training_too(monkeypatch, eval_only) -> None:
    """detectron2's loop would evaluate it twice; its configuration is ours here."""
    cfg = default_config()
    cfg.DATASETS.TEST = ("small_world_val", "small_world_val")
    cfg.MODEL.ALLOW_RANDOM_WEIGHTS = True
    adapter = SimpleNamespace(frozenseg_config=lambda: cfg)
    monkeypatch.setitem(sys.modules, "frozenseg.adapters.detectron2", adapter)
    with pytest.raises(UserError, match="DATASETS.TEST names small_world_val twice; name it once"):
        read_config(Request(config=None, options=[], resume=False, eval_only=eval_only))


def test_a_detectron2_that_does_not_load_is_told_apart(tmp_path) -> None:
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
    command = PACKAGE / "commands" / "detectron2_train_net.py"
    files = [path for path in PACKAGE.rglob("*.py") if PACKAGE / "adapters" not in path.parents]
    found = {path for path in files if any(HOST.match(name) for name in imported(path))}
    assert found == {command}
    top = ast.parse(command.read_text()).body
    modules = [node.module or "" for node in top if isinstance(node, ast.ImportFrom)]
    assert len(modules) > 3 and not any(HOST.match(name) for name in modules)
