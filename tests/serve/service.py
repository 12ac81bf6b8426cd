"""`frozenseg serve` as a process of its own, on a free port."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


class Service:
    """A service that is ready. python: of the environment that it runs in."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        python: str = sys.executable,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.process = subprocess.Popen(
            [python, "-m", "frozenseg", "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=environment,
        )
        self.said: list[str] = []
        for line in self.process.stdout or ():
            self.said.append(line)
            if found := re.match(r"(http\S+) serves", line):
                self.url = found[1]
                return
        raise AssertionError("the service ended: " + "".join(self.said))

    def workers(self) -> list[int]:
        """The processes of the model."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [
            int(child)
            for child in children.split()
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    def stop(self) -> None:
        """Ask it to end, as a service manager does, and hold it to a clean end."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
