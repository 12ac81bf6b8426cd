"""The environment of a run, on which its results depend: code, libraries and device."""

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import frozenseg

# By their names on the package index. Encoders, resized images and scores depend on them.
LIBRARIES = (
    "torchvision",
    "open_clip_torch",
    "timm",
    "segment-anything",
    "numpy",
    "Pillow",
    "opencv-python-headless",
    "scipy",
    "hotcoco",
)


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")  # since `platform` often has no name on Linux
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if names:
        return f"{names[0]}, {len(names)} cores"
    return platform.processor() or platform.machine()


def library_versions() -> dict[str, str]:
    """Return the versions of Python, PyTorch, PyTorch's CUDA, and the installed `LIBRARIES`."""
    versions = {"python": sys.version.split()[0], "torch": torch.__version__}
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def code_version() -> dict[str, str | None]:
    """Return the version of this package, and its commit if that is known.

    The commit is known in a checkout, and if pip installed the package from git. The suffix
    "+changes" means that files of the package differ from that commit.
    """
    return {"version": frozenseg.__version__, "commit": _checkout() or _installed_from()}


def _checkout() -> str | None:
    package = Path(str(frozenseg.__file__)).parent
    # If git does not track the package, it is inside another project's checkout, e.g. its .venv.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changed = _git(package, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{commit}+changes" if commit and changed else commit


def _git(folder: Path, *words: str) -> str | None:
    """Return the output of git, or None if git fails or is not installed."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _installed_from() -> str | None:
    """Return the commit that pip recorded if it installed the package from git."""
    try:
        noted: Any = json.loads(
            metadata.distribution("frozenseg").read_text("direct_url.json") or "{}"
        )
    except (metadata.PackageNotFoundError, ValueError):
        return None
    return noted.get("vcs_info", {}).get("commit_id")
