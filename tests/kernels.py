"""Runs tests of Triton kernels in processes of their own."""

import os
import subprocess
import sys


def run_module(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process that finds what this one does. first: a folder that it searches before."""
    path = os.pathsep.join((environment.pop("first", ""), *sys.path))
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", name, *arguments],
        env={**os.environ, **environment, "PYTHONPATH": path.lstrip(os.pathsep)},
        capture_output=True,
        text=True,
    )


def run_interpreted(name: str, *arguments: str) -> None:
    """Run a module under Triton's interpreter, of which it must know when it is imported."""
    done = run_module(name, *arguments, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
