"""Every Triton kernel compiles for GPUs that are not here, with several versions of Triton."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import run_module

triton = pytest.importorskip("triton", reason="triton is not installed")
OTHER_VERSIONS = ("3.2.0", "3.6.0", "3.7.1", "3.8.0", "3.9.0")


@pytest.mark.parametrize("aligned", [True, False])
def test_deformable_attention_compiles(
    aligned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter takes more than the compiler does."""
    from tests.compile_triton import HEAD_CHANNELS, deformable, failures

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for channels in HEAD_CHANNELS:
        assert failures(deformable("fp32", channels, aligned, 90)) == []


def test_norms_and_post_processing_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.compile_triton import failures, norms, scans

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert failures([*scans(90), *norms("fp16", 90)]) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_kernels_compile_with_other_versions_of_triton(version: str, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    target = tmp_path / "packages"
    if version != triton.__version__:  # that one, of 900 MB, is there already
        done = subprocess.run(
            [*install, "--target", str(target), f"triton=={version}"],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:]
            pytest.skip(f"no triton {version} for Python {platform.python_version()}: {reason}")
    # Those of 3.6 and 3.7 have failed here, so they compile all that is launched.
    types = ("fp32", "bf16 autocast") if version in ("3.6.0", "3.7.1") else ("fp32",)
    compiled = run_module(
        "tests.compile_triton",
        *types,
        first=str(target),
        TRITON_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert compiled.stdout == f"Triton {version}: 0 failures\n", compiled.stderr
