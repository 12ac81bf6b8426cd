"""Names of cameras and network streams."""

import os
import re
from pathlib import Path

STREAMS = ("rtsp://", "rtsps://")


def is_live(source: str | os.PathLike[str]) -> bool:
    """Tell whether this is the number of a camera or the address of a stream, and not a file."""
    name = os.fspath(source)
    return name.lower().startswith(STREAMS) or (name.isdecimal() and not Path(name).exists())


def without_password(name: str) -> str:
    """Return an address without the user and password that it may hold."""
    return re.sub(r"(?<=://)[^/@]*@", "", name)
