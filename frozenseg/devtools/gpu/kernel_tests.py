"""Run the tests that are marked for a GPU."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from frozenseg.devtools.gpu.sections import Results
from frozenseg.devtools.gpu.trial import Trial
from frozenseg.errors import UserError
from frozenseg.files import shipped

MARK = "mark.gpu"
OUTCOMES = ("failure", "error", "skipped")


def marked(trial: Trial) -> Results:
    """Run the tests marked `gpu`; raises `AssertionError` if one of them fails."""
    checkout = shipped("configs").parent
    files = [
        str(path.relative_to(checkout))
        for path in sorted((checkout / "tests").rglob("test_*.py"))
        if MARK in path.read_text(encoding="utf-8")
    ]
    if not files:
        raise UserError(f"{checkout}: has no tests marked gpu; use a checkout of the repository")
    report = trial.scratch / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", f"--junitxml={report}"]
    command += ["-p", "no:cacheprovider", "--tb=short", *files]
    subprocess.run(command, cwd=checkout, check=False)
    outcomes = _outcomes(report)
    yield "passed", sum(outcome == "passed" for outcome in outcomes.values())
    yield "not passed", sum(outcome.startswith(OUTCOMES[:2]) for outcome in outcomes.values())
    yield "tests", outcomes
    if any(outcome.startswith(OUTCOMES[:2]) for outcome in outcomes.values()):
        raise AssertionError("tests marked gpu have failed")


def _outcomes(report: Path) -> dict[str, str]:
    """Return {test: "passed", or its outcome and its message}."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        found[name] = "passed"
        for kind in OUTCOMES:
            if (entry := case.find(kind)) is not None:
                found[name] = f"{kind}: {entry.get('message', '')[:300]}"
    return found


PARTS = {"marked gpu": marked}
