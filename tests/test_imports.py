"""The direction of imports, and that importing the package costs nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import frozenseg

PACKAGE = Path(frozenseg.__file__).parent

# From the ground up. A room (a folder or a module of the package) may import what stands in a row
# above its own, and itself; rooms of one row do not know each other.
LAYERS = """
library   errors notes
library   files structures extensions
library   tensor_store yaml_file
library   runtime text
library   encoders
library   models losses
library   checkpoints data
library   inference tracking
library   drawing evaluation engine
library   results
library   predictor
library   export
assembly  recipes
assembly  config_values
assembly  config_keys
assembly  config
assembly  build
faces     serve batch
faces     commands adapters
workshop  devtools small_world
"""
FLOORS = [line.split()[0] for line in LAYERS.strip().splitlines()]
ROWS = [line.split()[1:] for line in LAYERS.strip().splitlines()]
HEIGHT = {room: height for height, row in enumerate(ROWS) for room in row}
# The two commands of one room that stand on a room of the same row.
NEIGHBOURS = {
    ("commands", "adapters"): "commands/detectron2_train_net.py",
    ("devtools", "small_world"): "devtools/commands/benchmark_proposals.py",
}
# Libraries that the library floor is free of. PyYAML is not one: data sets are described in it too.
OF_ASSEMBLY = ("yacs", "fvcore", "detectron2")


def imported(path: Path) -> set[str]:
    """Full names of all modules that a file imports, at its top or within functions."""
    names: set[str] = set()
    package = ("frozenseg", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def files_of(room: str) -> list[Path]:
    module = PACKAGE / f"{room}.py"
    return [module] if module.is_file() else sorted((PACKAGE / room).rglob("*.py"))


def test_every_room_has_its_place() -> None:
    found = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert found == set(HEIGHT)


@pytest.mark.parametrize("room", HEIGHT)
def test_imports_run_down(room: str) -> None:
    upwards = set()
    for path in files_of(room):
        for name in imported(path):
            other = name.split(".")[1] if name.startswith("frozenseg.") else room
            if other not in HEIGHT or other == room:  # e.g. frozenseg.__version__
                continue
            allowed = HEIGHT[other] < HEIGHT[room]
            if NEIGHBOURS.get((room, other)) == str(path.relative_to(PACKAGE)):
                allowed = True
            if not allowed:
                upwards.add(f"{path.relative_to(PACKAGE)} imports {name}")
    assert upwards == set()


@pytest.mark.parametrize("room", [r for r in HEIGHT if FLOORS[HEIGHT[r]] == "library"])
def test_the_library_knows_no_configuration(room: str) -> None:
    found = {
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in files_of(room)
        for name in imported(path)
        if name.split(".")[0] in OF_ASSEMBLY
    }
    assert found == set()


KEY = re.compile(
    r"\b(MODEL|SOLVER|INPUT|TEST|DATASETS|DATALOADER|LOG)\.[A-Z_]+|\bVIS_PERIOD\b|\bOUTPUT_DIR\b"
)


@pytest.mark.parametrize("room", [r for r in HEIGHT if FLOORS[HEIGHT[r]] == "library"])
def test_the_library_names_no_key_of_the_configuration(room: str) -> None:
    """Neither in messages nor in docstrings: what a key is called, `build/` adds."""
    found = {
        f"{path.relative_to(PACKAGE)}:{node.lineno} {key[0]}"
        for path in files_of(room)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if (key := KEY.search(node.value))
    }
    assert found == set()


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return done.stdout.strip()


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'yaml', 'PIL', 'open_clip', 'cv2', 'scipy'}"
    assert run(f"import sys, frozenseg; print({heavy} & set(sys.modules))") == "set()"


def test_public_names_are_found_at_first_use() -> None:
    for name in frozenseg.__all__:
        assert getattr(frozenseg, name) is not None
    assert set(dir(frozenseg)) == set(frozenseg.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        frozenseg.nothing  # noqa: B018


def test_segmenting_needs_no_package_of_training_or_evaluation() -> None:
    shown = run(
        "import sys, numpy as np, frozenseg\n"
        "segmenter = frozenseg.load('small')\n"
        "result = segmenter(np.zeros((64, 64, 3), np.uint8), ['circle', 'sky'])\n"
        "import frozenseg.commands.demo\n"
        "print({'hotcoco', 'pycocotools', 'tensorboard', 'matplotlib'} & set(sys.modules))"
    )
    assert shown == "set()"
