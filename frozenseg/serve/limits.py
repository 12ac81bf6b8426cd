"""What a service allows, so that no request can exhaust it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The bounds of a service.

    queue: images that may wait for the model; more are refused with status 503.
    batch: the most images that go through the model together.
    wait: seconds for which the model waits for further images, once there is one.
    requests: that hold an upload in memory at once, also those that are still being sent.
    upload: bytes of the body of a request.
    pixels: of one image, known from its header before anything is decoded.
    names: of one vocabulary, synonyms counted.
    letters: of one name.
    images: of one request to `/v1/segment/batch`; the service takes no more than `queue`.
    timeout: seconds in which a batch must be done; after them the model's process is replaced. A
        model that makes graphs has an hour.
    """

    queue: int = 32
    batch: int = 4
    wait: float = 0.01
    requests: int = 192
    upload: int = 20 * 2**20
    pixels: int = 40_000_000
    names: int = 2000
    letters: int = 100
    images: int = 16
    timeout: float = 120.0
