"""The service does what its /openapi.json says, for requests made up by schemathesis."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

INSTALL = "needs the program schemathesis: pip install schemathesis==4.32.5"


@pytest.mark.slow
def test_made_up_requests_are_answered_as_described(service, tmp_path: Path) -> None:
    program = shutil.which("schemathesis") or pytest.skip(INSTALL)
    hooks = Path(__file__).with_name("schemathesis_hooks.py")
    # It cannot know which bytes are an image and which text is a list of names, so it may not
    # complain that some are refused.
    command = [program, "run", f"{service.url}/openapi.json", "--seed", "0", "--max-examples", "25"]
    command += ["--continue-on-failure", "--exclude-checks", "positive_data_acceptance"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(hooks)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
