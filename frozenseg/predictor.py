"""Segment images with a vocabulary: the main entry point of the package.

`frozenseg.load` returns a `Predictor`, and calling it returns a `SegmentationResult`.
"""

import gc
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from frozenseg.data.image_inputs import each_image, is_many, to_array
from frozenseg.data.images import file_name, numbered
from frozenseg.data.transforms import resize_image, resize_shortest_edge
from frozenseg.data.video import is_live, read_video
from frozenseg.errors import UserError, UserValueError
from frozenseg.inference.segment import Pipeline, Request
from frozenseg.inference.stream import segment_stream
from frozenseg.models.base import SegmentationModel, evaluation_mode
from frozenseg.results.following import follow, tracker_of
from frozenseg.results.result import SegmentationResult
from frozenseg.results.selection import THRESHOLD, checked_threshold
from frozenseg.runtime.allocator import give_back_memory
from frozenseg.runtime.background import map_ahead
from frozenseg.runtime.isolation import plain_defaults
from frozenseg.runtime.memory import out_of_memory_named
from frozenseg.structures import Prediction, TextEmbeddings
from frozenseg.text.classifier import TextClassifier
from frozenseg.text.names import shown
from frozenseg.text.vocabulary import Source, Vocabulary
from frozenseg.tracking.tracker import Tracker

if TYPE_CHECKING:
    from typing_extensions import Self  # `typing` has it from Python 3.11 on

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 16  # largest batch that the model takes from a list of images
TEXTS_KEPT = 8  # vocabularies whose text vectors a predictor keeps


class Predictor:
    """Segments images; each call may use a different vocabulary.

    Several threads may call one predictor at the same time. `close`, or the end of a `with` block,
    frees its memory.

    Example:
        >>> segmenter = frozenseg.load("small", device="cpu")
        >>> results = segmenter.batch(["street.png", "street.png"], vocabulary="car; road; sky")
        >>> len(results)
        2
        >>> segmenter.close()
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        text_classifier: TextClassifier,
        training_vocabulary: Vocabulary,
        short_side: int,
        long_side: int,
        batch_size: int = 1,
        readers: int = 2,
        note: str | None = None,
        rebuild: "Callable[[str], Predictor] | None" = None,
    ) -> None:
        """Take finished parts; `frozenseg.load` builds them from a configuration.

        pipeline: the model with its post-processing.
        text_classifier: makes the text vectors of a vocabulary.
        training_vocabulary: the classes that count as seen.
        short_side: the length in pixels to which the shorter side of an image is resized.
        long_side: the maximum length in pixels of the longer side after resizing.
        batch_size: the maximum number of images that `stream` gives the model at once; the images
            of a batch have the same padded size.
        readers: the number of threads that read and resize the images of `stream`.
        note: a warning that is attached to every result.
        rebuild: makes this predictor on another device, for `to`; None if it cannot be moved.
        """
        self.pipeline = pipeline
        self.text_classifier = text_classifier
        self.training_vocabulary = training_vocabulary
        self.short_side, self.long_side = short_side, long_side
        self.batch_size, self.readers = batch_size, readers
        self.note, self._rebuild = note, rebuild
        # This dict is replaced, never modified, so that reading it needs no lock. The vocabulary
        # that was used last comes last.
        self._texts: dict[Vocabulary, TextEmbeddings] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()

    @overload
    def __call__(
        self,
        image: list[Any] | tuple[Any, ...] | Generator[Any],
        vocabulary: Source | Vocabulary,
        things: Source | None = None,
        *,
        threshold: float = THRESHOLD,
    ) -> list[SegmentationResult]: ...

    @overload
    def __call__(
        self,
        image: Any,
        vocabulary: Source | Vocabulary,
        things: Source | None = None,
        *,
        threshold: float = THRESHOLD,
    ) -> SegmentationResult: ...

    def __call__(
        self,
        image: Any,
        vocabulary: Source | Vocabulary,
        things: Source | None = None,
        *,
        threshold: float = THRESHOLD,
    ) -> SegmentationResult | list[SegmentationResult]:
        """Segment one image; for several images, in any form that `batch` takes, return a list.

        image: a path, bytes, a binary file, a PIL image, an (H, W, 3) RGB uint8 array or a tensor;
            see `frozenseg.data.image_inputs.to_array`.
        vocabulary, things: the class names, in any form that `Vocabulary.parse` takes.
        threshold: the minimum score, 0-1, of segments and instances in the result.
        """
        if is_many(image):
            return self.batch(image, vocabulary, things, threshold=threshold)
        words, least = Vocabulary.parse(vocabulary, things), checked_threshold(threshold)
        start = time.perf_counter()
        pixels = self.read(image)
        found = self.segment(pixels, words, self.embed(words))
        seconds = time.perf_counter() - start
        return self._result(file_name(image), pixels, words, found, least, seconds)

    def batch(
        self,
        images: Iterable[Any] | str | os.PathLike[str],
        vocabulary: Source | Vocabulary,
        things: Source | None = None,
        *,
        threshold: float = THRESHOLD,
    ) -> list[SegmentationResult]:
        """Segment several images; the results equal those of single calls up to rounding.

        images: a list, generator or other iterable of images; an array or tensor with a leading
            batch dimension; or a folder or glob, whose images are taken in the order of their
            names.

        Images with the same padded size go through the model together. The first image that cannot
        be read ends the call with its `UserError`. To continue after such an image, or for a large
        number of images, use `stream`.
        """
        if not is_many(images):
            raise UserValueError(
                "batch takes a list of images; give one image to the predictor itself"
            )
        words, least = Vocabulary.parse(vocabulary, things), checked_threshold(threshold)
        at_once = min(len(images), MOST_AT_ONCE) if isinstance(images, Sized) else 0
        return list(_raising(self._stream(images, words, least, max(at_once, self.batch_size))))

    def stream(
        self,
        images: Iterable[Any] | str | os.PathLike[str],
        vocabulary: Source | Vocabulary,
        things: Source | None = None,
        *,
        threshold: float = THRESHOLD,
    ) -> Iterator[SegmentationResult | UserError]:
        """Segment any number of images and yield one result for each, in their order.

        images: in any form that `batch` takes.

        Threads read and resize images while the model works. Up to `batch_size` images with the
        same padded size go through the model together. For an image that cannot be read or
        segmented, its `UserError` is yielded in place of a result, and the stream continues.

        Example:
            >>> with frozenseg.load("small", device="cpu") as segmenter:
            ...     results = list(segmenter.stream(["street.png", "none.png"], "car; road"))
            >>> [type(result).__name__ for result in results]
            ['SegmentationResult', 'MissingFileError']
        """
        words, least = Vocabulary.parse(vocabulary, things), checked_threshold(threshold)
        return self._stream(images, words, least, self.batch_size)

    def track(
        self,
        frames: Iterable[Any] | str | os.PathLike[str],
        vocabulary: Source | Vocabulary,
        things: Source | None = None,
        *,
        threshold: float = THRESHOLD,
        tracker: Tracker | None = None,
        still: float | None = None,
    ) -> Iterator[SegmentationResult]:
        """Segment the frames of one video; the same object has the same id in all frames.

        frames: images in any form, in the order of the video; or a video: a file, the number of a
            camera ("0"), or an rtsp:// address. The first frame that cannot be read ends the call.
        threshold: the minimum score, 0-1, at which a region first appears; in later frames its
            score may fall below this value.
        tracker: assigns the ids, with its own thresholds in place of `threshold`.
        still: if given, a frame gets the result of the last segmented frame when no part of it has
            changed since that frame by more than this many grey levels (0-255).

        Example:
            >>> with frozenseg.load("small", device="cpu") as segmenter:
            ...     one, other = segmenter.track(["street.png"] * 2, "car; road")
            >>> one.track_ids == other.track_ids
            True
        """
        if not isinstance(tracker, Tracker | None):
            raise UserValueError(f"tracker {shown(tracker)}: must be a Tracker, or None")
        words, known = Vocabulary.parse(vocabulary, things), tracker or tracker_of(threshold)
        named: Iterator[tuple[str | None, np.ndarray]]
        if isinstance(frames, str | os.PathLike) and not is_many(frames):
            stem = "frame" if is_live(frames) else Path(frames).stem
            video = read_video(os.path.expanduser(frames))
            named = ((f"{stem}_{frame.number:06d}", frame.pixels) for frame in video.frames())
        else:
            named = (
                (file_name(image) or numbered(number), self.read(image))
                for number, image in enumerate(each_image(frames), 1)
            )
        names: deque[str | None] = deque()  # file names of the frames whose results are pending

        def pixels() -> Iterator[np.ndarray]:
            for name, frame in named:
                names.append(name)
                yield frame

        segment = partial(self.stream, vocabulary=words, threshold=known.keep)
        results = _raising(follow(segment, pixels(), tracker=known, still=still))
        return (replace(result, file_name=names.popleft()) for result in results)

    def _stream(
        self, images: Any, words: Vocabulary, threshold: float, batch_size: int
    ) -> Iterator[SegmentationResult | UserError]:
        pipeline, text = self._open(), self.embed(words)
        ready = map_ahead(
            self._prepare, each_image(images), workers=self.readers, depth=self.readers + batch_size
        )
        done = segment_stream(pipeline, ready, text, words, batch_size=batch_size)
        spent, start = 0.0, time.perf_counter()
        for number, ((image, pixels), found) in enumerate(done, 1):
            spent += time.perf_counter() - start
            if isinstance(found, UserError):
                yield found
            else:
                name = file_name(image) or numbered(number)
                yield self._result(name, pixels, words, found, threshold, spent / number)
            start = time.perf_counter()

    def _prepare(self, image: Any) -> tuple[tuple[Any, np.ndarray], Request | UserError]:
        """Read and resize an image; one that cannot be read gives empty pixels and its error."""
        try:
            with out_of_memory_named("its pixels"):
                pixels = self.read(image)
                return (image, pixels), self._request(pixels)
        except UserError as error:
            return (image, np.zeros((0, 0, 3), np.uint8)), error.with_traceback(None)

    def _request(self, pixels: np.ndarray) -> Request:
        return Request(self.resize(pixels), (pixels.shape[0], pixels.shape[1]))

    def _result(
        self,
        name: str | None,
        pixels: np.ndarray,
        vocabulary: Vocabulary,
        found: Prediction,
        threshold: float,
        seconds: float,
    ) -> SegmentationResult:
        """Return the result without segments and instances whose score is below the threshold."""
        result = SegmentationResult(
            image=pixels,
            vocabulary=vocabulary,
            panoptic=found.panoptic,
            semantic=found.semantic,
            instances=found.instances,
            note=self.note,
            file_name=name,
            seconds=seconds,
        )
        return result.filter(threshold=threshold)

    def read(self, image: Any) -> np.ndarray:
        """Read an image, in any form that a call takes, and return it as (H, W, 3) uint8 RGB."""
        return to_array(image)

    def resize(self, pixels: np.ndarray) -> Tensor:
        """Resize (H, W, 3) uint8 pixels to the (3, h, w) uint8 tensor that the network takes."""
        size = resize_shortest_edge(
            pixels.shape[0], pixels.shape[1], self.short_side, self.long_side
        )
        resized = np.array(resize_image(pixels, size))  # a copy that torch may hold
        return torch.from_numpy(resized).permute(2, 0, 1)

    def segment(
        self, pixels: np.ndarray, vocabulary: Vocabulary, text: TextEmbeddings
    ) -> Prediction:
        """Segment (H, W, 3) uint8 RGB pixels; results have the size of the image.

        text: the text vectors of the vocabulary, from `embed`.
        """
        pipeline = self._open()
        with plain_defaults(), evaluation_mode(pipeline.model):
            return pipeline(self._request(pixels), text, vocabulary)

    def embed(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """Return the text vectors of a vocabulary on the model's device.

        The vectors of the `TEXTS_KEPT` most recently used vocabularies are kept. Other threads may
        embed other vocabularies at the same time.
        """
        texts = self._texts
        text = texts.get(vocabulary)
        if text is not None and next(reversed(texts)) == vocabulary:
            return text
        if text is None:
            device = self.device  # raises `UserError` if the predictor is closed
            with plain_defaults():
                found = self.text_classifier.embed(
                    vocabulary, self.training_vocabulary, plurals=True
                )
            text = found.to(device)
        with self._lock:
            others = [pair for pair in self._texts.items() if pair[0] != vocabulary]
            self._texts = dict([*others[1 - TEXTS_KEPT :], (vocabulary, text)])
        return text

    def to(self, device: str | torch.device) -> "Self":
        """Move the predictor to another device and return it.

        The model is loaded again, because it was prepared for its present device.
        """
        if str(device) in (str(self.device), self.device.type):
            return self
        if self._rebuild is None:
            raise UserError(f"this model cannot be moved; load it with device={str(device)!r}")
        other = self._rebuild(str(device))
        self.close()
        self.__dict__.update(other.__dict__)
        return self

    def close(self) -> None:
        """Free the memory of the model; the predictor cannot be used afterwards."""
        if "pipeline" in self.__dict__:
            del self.pipeline, self.text_classifier
        self._texts = {}
        gc.collect()
        give_back_memory()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Refuse pickling and copying: what the model prepared on its device cannot be copied."""
        raise UserError(
            "a predictor can be neither pickled nor copied; threads may share one, and other "
            "processes have to load the model themselves"
        )

    def __repr__(self) -> str:
        if "pipeline" not in self.__dict__:
            return "<Predictor, closed>"
        model = type(self.model).__name__
        return f"<Predictor {model} on {self.device}, shorter side {self.short_side} pixels>"

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.device

    @property
    def model(self) -> SegmentationModel:
        """The network; raises `UserError` after `close`."""
        return self._open().model

    def _open(self) -> Pipeline:
        if "pipeline" not in self.__dict__:
            raise UserError("this predictor is closed; load the model again")
        if os.getpid() != self._process and torch.get_num_threads() > 1:
            raise UserError(  # torch would wait forever for threads that a fork does not copy
                "this process was forked from the one that loaded the model; load it here, start "
                "processes by 'spawn', or call torch.set_num_threads(1) first"
            )
        return self.pipeline


def _raising(results: Iterable[SegmentationResult | UserError]) -> Iterator[SegmentationResult]:
    """Yield the results; raise the first error among them."""
    for result in results:
        if isinstance(result, UserError):
            raise result
        yield result
