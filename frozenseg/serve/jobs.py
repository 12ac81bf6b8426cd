"""What goes to the process of the model and what comes back: plain values that can be pickled."""

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
"""The forms of an answer, with their media types."""


@dataclass(frozen=True)
class Job:
    """One image to segment.

    image: the content of an image file.
    vocabulary: its classes.
    threshold: the least score of a segment or an instance, 0 to 1.
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
    """The answer to a job: its body, or one line of error with an HTTP status that is not 200."""

    body: bytes
    media_type: str = "application/json"
    status: int = 200


@dataclass(frozen=True)
class ModelInfo:
    """What a model's process tells once it is ready.

    device: where the model is. note: a warning for every result, or None. knows: a line about what
    the model was trained on, where users should be told; else None. makes_graphs: whether a graph
    is made for each new size of images, which lasts.
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
        """A name for users that tells nothing of the server's folders."""
        path = Path(os.path.abspath(self.model))
        return path.name if path.is_dir() else path.stem


@dataclass(frozen=True)
class Done:
    """The answers to a batch, in its order, and the memory of the process in bytes."""

    answers: list[Answer]
    memory: int


class Refusal(Exception):
    """A request that is refused: an HTTP status and one line for the user.

    retry_after: seconds after which another try may succeed, or None.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
