"""Segments a stream of images, for the demo, the predictor's batches and evaluations.

Images of one padded size go through the model together. On a GPU, a thread computes the results of
one batch, on its own CUDA stream, while the model works on the next batch.
"""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from frozenseg.errors import UserError
from frozenseg.inference.segment import ModelOutput, Pipeline, Request
from frozenseg.models.base import evaluation_mode
from frozenseg.runtime.background import bucketed
from frozenseg.runtime.isolation import plain_defaults
from frozenseg.structures import Prediction, TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary

Source = TypeVar("Source")
Result = Prediction | UserError
_Group = list[tuple[int, tuple[Source, Request | UserError]]]

# An image waits for partners of its padded size while this many batches of images are read.
WAIT = 2


def segment_stream(
    pipeline: Pipeline,
    items: Iterable[tuple[Source, Request | UserError]],
    text: TextEmbeddings,
    vocabulary: Vocabulary,
    *,
    batch_size: int,
    overlap: bool | None = None,
) -> Iterator[tuple[Source, Result]]:
    """Yield each source with the results of its request, in the order of the items.

    If an item has a `UserError` instead of a request, or if the model raises one for its image
    alone, the error is yielded instead of the results. Any other error ends the stream, after the
    results of all images before the first one that was not completed. If the error is the source's,
    these are all images that were read.

    items: sources of any kind, each with its request. text: the embeddings of `vocabulary`.
    batch_size: the most images of one padded size that the model processes at once.
    overlap: whether results are computed while the model works on the next batch; None: on all
        devices but a CPU, whose cores both would share.
    """
    if overlap is None:
        overlap = pipeline.model.device.type != "cpu"
    waiting: deque[tuple[_Group[Source], Future[list[Result]]]] = deque()
    done: dict[int, tuple[Source, Result]] = {}
    expected = 0

    def collect(most: int) -> None:
        """Collect the results of all but the last `most` groups."""
        while len(waiting) > most:
            group, future = waiting.popleft()
            for (number, (source, _)), result in zip(group, future.result(), strict=True):
                done[number] = source, result

    def in_order() -> Iterator[tuple[Source, Result]]:
        nonlocal expected
        while expected in done:
            yield done.pop(expected)
            expected += 1

    with _Finisher(pipeline, vocabulary, overlap=overlap) as finisher:
        try:
            for group in _groups(pipeline, items, batch_size):
                requests = [request for _, (_, request) in group]
                waiting.append((group, finisher.finish(_start(pipeline, requests, text))))
                collect(int(overlap))
                yield from in_order()
        except GeneratorExit:
            raise
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to raise
                collect(0)
            yield from in_order()
            raise
        collect(0)
        yield from in_order()


def _groups(
    pipeline: Pipeline, items: Iterable[tuple[Source, Request | UserError]], batch_size: int
) -> Iterator[_Group[Source]]:
    """Yield groups of numbered items that go through the model together."""

    def padded_size(entry: tuple[int, tuple[Source, Request | UserError]]) -> object:
        request = entry[1][1]
        return None if isinstance(request, UserError) else pipeline.padded_size(request.image)

    return bucketed(enumerate(items), batch_size, padded_size, WAIT * batch_size)


def _start(
    pipeline: Pipeline, requests: list[Request | UserError], text: TextEmbeddings
) -> list[ModelOutput | UserError]:
    """Start the model on a group. If that raises a `UserError`, start each image separately, so
    that only the images that cause the error fail."""
    good = [request for request in requests if isinstance(request, Request)]
    if len(good) < len(requests):  # an item with an error is a group of its own
        return [request for request in requests if isinstance(request, UserError)]
    try:
        with plain_defaults(), evaluation_mode(pipeline.model):
            return [pipeline.predict(good, text)]
    except UserError as error:
        if len(good) == 1:
            return [error]
    return [found for request in good for found in _start(pipeline, [request], text)]


class _Finisher:
    """Computes results from model outputs; with `overlap`, in a thread with its own CUDA stream."""

    def __init__(self, pipeline: Pipeline, vocabulary: Vocabulary, *, overlap: bool) -> None:
        self.pipeline, self.vocabulary = pipeline, vocabulary
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="results") if overlap else None
        device = pipeline.model.device
        self.stream = None
        if overlap and device.type == "cuda":
            # High priority: small kernels of the results run before those of the next batch.
            self.stream = torch.cuda.Stream(device, priority=-1)

    def __enter__(self) -> "_Finisher":
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown()

    def finish(self, outputs: list[ModelOutput | UserError]) -> "Future[list[Result]]":
        """Return the future results of a group; without a thread they are already computed."""
        started = None
        if self.stream is not None:
            started = torch.cuda.current_stream(self.stream.device).record_event()
        if self.pool is not None:
            return self.pool.submit(self._results, outputs, started)
        future: Future[list[Result]] = Future()
        future.set_result(self._results(outputs, started))
        return future

    def _results(
        self, outputs: list[ModelOutput | UserError], started: torch.cuda.Event | None
    ) -> list[Result]:
        # `outputs` keeps the tensors of the model's stream alive until this stream has read them,
        # since the results wait for this stream.
        with plain_defaults(), torch.cuda.stream(self.stream):
            if started is not None:
                torch.cuda.current_stream().wait_event(started)
            results: list[Result] = []
            for output in outputs:
                if isinstance(output, UserError):
                    results.append(output)
                else:
                    results += self.pipeline.finish(output, self.vocabulary)
            return results
