"""The messages between the service and the model's process: plain values that can be pickled."""

import os
from dataclasses import dataclass
from pathlib import Path

from frozenseg.text.vocabulary import Vocabulary

TASKS = ("panoptic", "semantic", "instances")
FORMATS = {
    "json": "application/json",
    "map": "application/json",
    "png": "image/png",
    "overlay": "image/png",
}
"""Format of an answer -> its media type."""


@dataclass(frozen=True)
class Job:
    """One image to segment.

    image: the content of an image file.
    vocabulary: the classes to segment the image into.
    threshold: the lowest score, 0 to 1, of the segments and instances to keep.
    tasks: some of `TASKS`.
    format: one of `FORMATS`.
    """

    image: bytes
    vocabulary: Vocabulary
    threshold: float
    tasks: tuple[str, ...]
    format: str


@dataclass(frozen=True)
class Answer:
    """The answer to a job. Unless the HTTP status is 200, the body is one line of error as JSON."""

    body: bytes
    media_type: str = "application/json"
    status: int = 200


@dataclass(frozen=True)
class ModelInfo:
    """What the model's process reports once the model is loaded.

    device: the device of the model.
    note: a warning that holds for every result, or None.
    knows: a line about what the model was trained on, if users should know it, else None.
    makes_graphs: whether a graph is made for each new image size, which takes a while.
    """

    device: str
    note: str | None
    knows: str | None
    makes_graphs: bool = False


@dataclass(frozen=True)
class ModelSource:
    """Where the model comes from: the arguments of `frozenseg.load`."""

    model: str
    weights: str | None = None
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A name to show to users, which does not reveal the folders of the server."""
        path = Path(os.path.abspath(self.model))
        return path.name if path.is_dir() else path.stem


@dataclass(frozen=True)
class Done:
    """The answers to a batch, in its order, and the resident memory of the process in bytes."""

    answers: list[Answer]
    memory: int


class Refusal(Exception):
    """Raised to refuse a request, with an HTTP status and one line for the user.

    retry_after: seconds after which another attempt may succeed, or None.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
