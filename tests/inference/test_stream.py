"""The loop over images, with a recording model: batches, order, errors and overlap."""

import threading
from types import SimpleNamespace

import pytest
import torch

from frozenseg.errors import UserError
from frozenseg.inference.segment import ModelOutput, Request
from frozenseg.inference.stream import segment_stream


class RecordingPipeline:
    """Records which images it starts and finishes; refuses groups that have an image of zeros."""

    def __init__(self, wait: bool = False) -> None:
        self.model = torch.nn.Linear(1, 1)
        self.model.device = torch.device("cpu")
        self.groups: list[int] = []
        self.events: list[tuple[str, int]] = []
        self.wait = wait
        self.next_started = threading.Event()

    def padded_size(self, image: torch.Tensor) -> tuple[int, int]:
        return -(-image.shape[-2] // 32), -(-image.shape[-1] // 32)

    def predict(self, requests: list[Request], text: None) -> ModelOutput:
        self.groups.append(len(requests))
        self.events.append(("model", requests[0].image_id))
        if len(self.groups) > 1:
            self.next_started.set()
        if not all(request.image.any() for request in requests):
            raise UserError("too dark")
        return ModelOutput(requests, None, None, None)

    def finish(self, output: ModelOutput, vocabulary: None) -> list:
        if self.wait:  # finish the first group only after the model has started the second
            assert self.next_started.wait(60)
        self.events.append(("results", output.requests[0].image_id))
        return [SimpleNamespace(id=request.image_id) for request in output.requests]


def entry(number: int, width: int = 40, level: int = 1) -> tuple[int, Request]:
    image = torch.full((3, 30, width), level, dtype=torch.uint8)
    return number, Request(image, (30, width), number)


def told(results: list) -> list[tuple[int, object]]:
    return [
        (number, str(found) if isinstance(found, UserError) else found.id)
        for number, found in results
    ]


@pytest.mark.parametrize("overlap", [False, True])
def test_images_of_one_padded_size_go_together(overlap: bool) -> None:
    """Widths of 40 and 60 are padded to 64, a width of 70 to 96. Images that are refused or cannot
    be read do not stop the others."""
    items = [entry(0), entry(1, 70), entry(2, 60), (3, UserError("no image")), entry(4)]
    items += [entry(5, level=0), entry(6), entry(7, 60), entry(8, 70)]
    expected = [(n, n) for n in range(9)]
    expected[3], expected[5] = (3, "no image"), (5, "too dark")
    groups = {}
    for size in (1, 3):
        pipeline = RecordingPipeline()
        found = segment_stream(pipeline, items, None, None, batch_size=size, overlap=overlap)
        assert told(list(found)) == expected
        groups[size] = pipeline.groups
    assert groups[1] == [1] * 8
    # 0 2 4; 5 6 7, refused, and then each of them alone; 1, which has waited for 6 images; 8
    assert groups[3] == [3, 3, 1, 1, 1, 1, 1]


def test_the_model_is_at_the_next_batch_while_results_are_made() -> None:
    pipeline = RecordingPipeline(wait=True)
    items = [entry(0), entry(1)]
    found = segment_stream(pipeline, items, None, None, batch_size=1, overlap=True)
    assert told(list(found)) == [(0, 0), (1, 1)]
    assert pipeline.events.index(("model", 1)) < pipeline.events.index(("results", 0))


@pytest.mark.parametrize("ending", [KeyboardInterrupt, ZeroDivisionError])
def test_finished_results_are_given_before_an_error_ends_the_stream(
    ending: type[BaseException],
) -> None:
    def items():  # noqa: ANN202
        yield entry(0)
        yield entry(1)
        raise ending

    seen = []
    with pytest.raises(ending):
        seen.extend(told(segment_stream(RecordingPipeline(), items(), None, None, batch_size=1)))
    found = segment_stream(RecordingPipeline(), items(), None, None, batch_size=1, overlap=True)
    with pytest.raises(ending):
        for result in found:
            seen += told([result])
    assert seen == [(0, 0), (1, 1)]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("broken", [None, 2, 4])
def test_an_error_comes_after_the_images_before_it_and_no_other(
    overlap: bool, broken: int | None
) -> None:
    """Images that wait for partners are completed if the source fails. If the model fails (image
    `broken`), no result of an image behind takes the place of one that is missing."""

    class BreakingPipeline(RecordingPipeline):
        def finish(self, output: ModelOutput, vocabulary: None) -> list:
            if broken in (request.image_id for request in output.requests):
                raise OSError
            return super().finish(output, vocabulary)

    def items():  # noqa: ANN202
        yield from (entry(0), entry(1, 70), entry(2), entry(3, 70), entry(4), entry(5, 100))
        raise OSError

    seen = []
    with pytest.raises(OSError):
        for result in segment_stream(
            BreakingPipeline(), items(), None, None, batch_size=2, overlap=overlap
        ):
            seen += told([result])
    assert seen == [(n, n) for n in range({None: 6, 2: 0, 4: 4}[broken])]


def test_no_more_images_are_drawn_than_wait_for_partners() -> None:
    drawn = []

    def items():  # noqa: ANN202
        for number in range(40):
            drawn.append(number)
            yield entry(number, 40 if number % 9 == 0 else 70)

    for number, _ in segment_stream(RecordingPipeline(), items(), None, None, batch_size=3):
        assert len(drawn) <= number + 1 + 2 * 3 + 3
    assert len(drawn) == 40
