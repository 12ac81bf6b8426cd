"""The package as users get it: its metadata, what it needs, and a wheel in an empty folder."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import frozenseg
from tests.serve.service import Service

REPOSITORY = Path(__file__).parents[1]
EXTRAS = ["hotcoco", "pycocotools", "tensorboard", "matplotlib", "transformers"]
MEGABYTE = 1_000_000

SEGMENT = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None
import numpy as np
import frozenseg
result = frozenseg.load("small")(np.zeros((64, 64, 3), np.uint8), ["circle", "sky"])
assert result.draw().size[0] >= 64 and result.semantic.shape == (64, 64)
import frozenseg.commands.demo
"""


def test_segmenting_needs_no_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEGMENT], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    isolated = [] if find_spec("hatchling") is None else ["--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *isolated]
    subprocess.run([*command, "-w", str(folder), str(REPOSITORY)], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, over the packages that are installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "shared.pth").write_text("\n".join(filter(_is_site, sys.path)) + "\n")
    return python


def _is_site(path: str) -> bool:
    return Path(path).name in ("site-packages", "dist-packages")


@pytest.mark.slow
def test_what_the_wheel_holds(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("/METADATA"))).decode()
    assert {name.split("/")[0] for name in names} == {
        "frozenseg",
        f"frozenseg-{frozenseg.__version__}.dist-info",
    }
    assert f"\nVersion: {frozenseg.__version__}\n" in metadata
    needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE)
    assert "torch" in needed and not set(needed) & set(EXTRAS)
    extras = {"train", "eval", "serve", "batch", "ray", "data", "docs"}
    extras |= {"cityscapes", "fusioner", "fonts", "heif", "video", "onnx", "openvino", "all"}
    assert set(re.findall(r"^Provides-Extra: (\w+)$", metadata, re.MULTILINE)) == extras
    assert not [name for name in names if re.search(r"(^|/)(tests?|logs)/|\.pyc$", name)]
    recipes = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "configs").rglob("*.yaml")}
    assert {f"frozenseg/{path}" for path in recipes} <= set(names)
    tracked = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "frozenseg").rglob("*")}
    assert set(names) >= {n for n in tracked if n.endswith((".py", ".txt", ".json", ".typed"))}
    assert wheel.stat().st_size < 25 * MEGABYTE


@pytest.mark.slow
def test_the_wheel_in_an_empty_folder(python: Path, tmp_path: Path) -> None:
    """Demo, a small world, two steps of training and an evaluation; nothing from the checkout."""
    home = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        command = [str(python), "-m", "frozenseg", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=home, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert str(REPOSITORY) not in done.stdout + done.stderr
        return done.stdout + done.stderr

    where = [str(python), "-c", "import frozenseg; print(frozenseg.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=home, capture_output=True, text=True).stdout
    assert found.startswith(str(python.parents[1]))
    assert run("--version") == f"frozenseg {frozenseg.__version__}\n"
    script = subprocess.run(
        [str(python.with_name("frozenseg")), "--version"], capture_output=True, text=True
    )
    assert script.stdout == f"frozenseg {frozenseg.__version__}\n"
    assert "2 of 2 in" in run("demo")
    run("make_small_world", "--output", "datasets/small_world", "--count", "2")
    image = next((tmp_path / "datasets" / "small_world").rglob("val/images/*"))
    assert "1 of 1 in" in run("demo", "--input", str(image), "--vocabulary", "red circle; sky")
    train = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
    nothing = ["TEST.EXPECTED_RESULTS", "[]", "TEST.USE_SAM_MASKS", "False"]
    nothing += ["OUTPUT_DIR", "output/run"]
    run("train", "--config-file", "small/frozenseg", "MODEL.WEIGHTS", "", *train, *nothing)
    assert (tmp_path / "output" / "run" / "model_final.safetensors").is_file()
    assert "PQ" in run("evaluate", "--config-file", "frozenseg", *nothing)


@pytest.mark.slow
def test_the_page_of_the_wheel_segments_its_first_example(python: Path, tmp_path: Path) -> None:
    """From the start in an empty folder to the answer, as the page asks for it."""
    httpx = pytest.importorskip("httpx", reason="pip install 'frozenseg[serve]'")
    pytest.importorskip("uvicorn", reason="pip install 'frozenseg[serve]'")
    home = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    service = Service(tmp_path, python=str(python), environment=home)
    with httpx.Client(base_url=service.url, timeout=120, trust_env=False) as http:
        page = http.get("/").text
        assert all(http.get(file).status_code == 200 for file in re.findall(r"/page/[\w./]+", page))
        example = http.get("/v1/models").json()["examples"][0]
        image = http.get(example["image"]).content
        fields = {"vocabulary": example["vocabulary"], "format": "map", "threshold": "0"}
        answer = http.post("/v1/segment", files={"image": image}, data=fields).json()
    assert len(answer["panoptic"]["segments"]) > 2
    service.stop()
    assert list(tmp_path.iterdir()) == []
