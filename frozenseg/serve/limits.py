"""The limits of a service, so that no request can exhaust its resources."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of a service: the largest numbers that are allowed, and times in seconds.

    queue: images that wait for the model; more are refused with status 503.
    batch: images that go through the model together.
    wait: seconds to wait for further images of a batch, once there is a first one.
    requests: requests whose uploads are in memory at once, including those still being received.
    upload: bytes in the body of a request.
    silence: seconds without data, while a body is being received.
    arrival: seconds until the whole body has been received.
    pixels: pixels of one image; its header is checked before anything is decoded.
    names: names in one vocabulary, including synonyms.
    letters: characters in one name.
    images: images in one request to `/v1/segment/batch`; if `queue` is lower, that is the limit.
    timeout: seconds that a batch may take, after which the model's process is replaced. A model
        that makes graphs may take an hour.
    """

    queue: int = 32
    batch: int = 4
    wait: float = 0.01
    requests: int = 192
    upload: int = 20 * 2**20
    silence: float = 20.0
    arrival: float = 360.0
    pixels: int = 40_000_000
    names: int = 2000
    letters: int = 100
    images: int = 16
    timeout: float = 120.0
