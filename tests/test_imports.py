"""The direction of imports, and that importing the package costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import frozenseg

PACKAGE = Path(frozenseg.__file__).parent
MODEL_SIDE = ("text", "encoders", "models", "losses", "inference")
FORBIDDEN = (
    "frozenseg.config",
    "frozenseg.build",
    "frozenseg.engine",
    "frozenseg.commands",
    "frozenseg.predictor",
    "yaml",
    "yacs",
    "fvcore",
    "detectron2",
)


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
            names.update({module, *(f"{module}.{alias.name}" for alias in node.names)})
    return names


def forbidden(names: set[str]) -> set[str]:
    return {
        name for name in names for root in FORBIDDEN if name == root or name.startswith(root + ".")
    }


@pytest.mark.parametrize("folder", MODEL_SIDE)
def test_model_code_knows_neither_configuration_nor_framework(folder: str) -> None:
    files = sorted((PACKAGE / folder).rglob("*.py"))
    assert len(files) > 1
    found = {str(path.relative_to(PACKAGE)): forbidden(imported(path)) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


# What each folder of the model side may import of the others: what stands before it in the flow.
FLOW = {
    "text": {"text"},
    "encoders": {"encoders"},
    "models": {"encoders", "models"},
    "losses": {"losses"},
    "inference": {"data", "text", "encoders", "models", "inference"},
}


@pytest.mark.parametrize("folder", FLOW)
def test_imports_follow_the_data(folder: str) -> None:
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        used = {
            name.split(".")[1] for name in imported(path) if name.startswith("frozenseg.")
        } & set(MODEL_SIDE + ("data", "evaluation"))
        assert used <= FLOW[folder], path


def test_the_reader_of_imports_sees_all_forms(tmp_path: Path) -> None:
    path = PACKAGE / "models" / "imagined.py"
    source = (
        "import yaml\nfrom frozenseg import build\nfrom ..engine import x\n"
        "from . import layers\ndef f():\n    import detectron2.config\n"
    )
    tree = tmp_path / "imagined.py"
    tree.write_text(source)
    original = Path.read_text
    try:
        Path.read_text = lambda self, **_: source if self == path else original(self)
        found = forbidden(imported(path))
    finally:
        Path.read_text = original
    assert {"yaml", "frozenseg.build", "frozenseg.engine", "detectron2.config"} <= found
    assert "frozenseg.models.layers" not in found


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
