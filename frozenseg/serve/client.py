"""A client of the service, which returns what a predictor returns: `frozenseg.Client(url)(...)`."""

import base64
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from frozenseg.data.image_inputs import to_array
from frozenseg.data.images import file_name
from frozenseg.data.label_maps import decode_panoptic
from frozenseg.data.results import png_bytes
from frozenseg.data.rle import as_rles, decode_masks
from frozenseg.errors import UserError, sendable_token
from frozenseg.results.result import SegmentationResult
from frozenseg.structures import InstanceResult, PanopticResult, Segment
from frozenseg.text.vocabulary import Source, Vocabulary

# The fields of an answer that the client reads; see `frozenseg.serve.bodies`.
READ = {"panoptic", "semantic", "instances", "note", "seconds"}
# The errors of the functions below for content that fits neither the image nor the classes.
UNFIT = (LookupError, TypeError, ValueError, OSError, UserError, Image.DecompressionBombError)


class Client:
    """Segments images with a `frozenseg serve` service that runs elsewhere.

    Example:
        >>> client = frozenseg.Client("http://127.0.0.1:8000")  # doctest: +SKIP
        >>> client("street.png", ["car, truck", "road"]).summary()  # doctest: +SKIP
    """

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 120.0) -> None:
        """Prepare requests to a service; nothing is sent yet.

        url: the address of the service.
        token: the token that the service requires, if any; surrounding white space is removed.
        timeout: seconds to wait for an answer.

        Raises `UserError` if the address or the token is not valid.
        """
        try:
            import httpx
        except ImportError:
            raise UserError("httpx is not installed: pip install 'frozenseg[serve]'") from None
        headers = {}
        if token is not None:
            headers["Authorization"] = f"Bearer {sendable_token(token)}"
        try:
            self._http = httpx.Client(
                base_url=url, headers=headers, timeout=timeout, trust_env=False
            )
        except httpx.InvalidURL as error:
            raise UserError(
                f"{url}: not a valid address ({error}); write it like http://127.0.0.1:8000"
            ) from None

    def __call__(
        self,
        image: Any,
        vocabulary: Source | Vocabulary,
        things: Source | None = None,
        *,
        threshold: float = 0.25,
    ) -> SegmentationResult:
        """Segment one image, given in any form that a `Predictor` takes.

        Raises `UserError` if the service refuses (with the service's own message), if it cannot be
        reached, and after `close`.
        """
        if self._http.is_closed:
            raise UserError("this client is closed; create a new one")
        pixels = to_array(image)
        words = Vocabulary.parse(vocabulary, things)
        fields = {
            # Escaped, a character would use up six of those that the service allows in a field.
            "vocabulary": json.dumps(words.names, ensure_ascii=False),
            "things": json.dumps(_things(words), ensure_ascii=False),
            "threshold": str(threshold),
            "format": "map",
        }
        answer = self._send(fields, png_bytes(Image.fromarray(pixels)))
        size = (pixels.shape[0], pixels.shape[1])
        try:
            return SegmentationResult(
                pixels,
                words,
                _panoptic(answer["panoptic"], size, words),
                _semantic(answer["semantic"], size, words),
                _instances(answer["instances"], size, words),
                answer["note"],
                file_name(image),
                answer["seconds"],
            )
        except UNFIT:
            raise self._not_an_answer(200) from None

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, fields: dict[str, str], image: bytes) -> dict[str, Any]:
        import httpx

        url = self._http.base_url
        try:
            answer = self._http.post("/v1/segment", data=fields, files={"image": image})
        except (httpx.HTTPError, UnicodeError) as error:  # `UnicodeError`: not a valid host name
            raise UserError(f"{url}: no answer ({error}); is the service running?") from None
        status = answer.status_code
        try:
            content = answer.json()
        except ValueError:
            content = None
        if isinstance(content, dict):
            if status == 200 and content.keys() >= READ:
                return content
            if status != 200 and isinstance(content.get("error"), str):
                raise UserError(f"{url}: {content['error']} (status {status})")
        raise self._not_an_answer(status)

    def _not_an_answer(self, status: int) -> UserError:
        return UserError(
            f"{self._http.base_url}: status {status}, not an answer of frozenseg serve; check the "
            "address"
        )


def _things(words: Vocabulary) -> list[tuple[str, ...]]:
    pairs = zip(words.names, words.is_thing, strict=True)
    return [names for names, thing in pairs if thing]


def _ids(text: str, size: tuple[int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as picture:
        if picture.size != size[::-1]:
            raise ValueError("the size of a map")
        return decode_panoptic(np.asarray(picture))


def _class_id(number: int, words: Vocabulary) -> int:
    if not 0 <= number < len(words):
        raise ValueError("the number of a class")
    return number


def _panoptic(
    part: dict[str, Any] | None, size: tuple[int, int], words: Vocabulary
) -> PanopticResult | None:
    if part is None:
        return None
    return PanopticResult(
        _ids(part["ids"], size), [_segment(row, words) for row in part["segments"]]
    )


def _segment(row: dict[str, Any], words: Vocabulary) -> Segment:
    left, top, right, bottom = row["box"]
    return Segment(
        id=row["id"],
        class_id=_class_id(row["class_id"], words),
        name=row["name"],
        is_thing=row["is_thing"],
        score=math.nan if row["score"] is None else row["score"],
        area=row["area"],
        box=(left, top, right, bottom),
    )


def _semantic(
    part: dict[str, Any] | None, size: tuple[int, int], words: Vocabulary
) -> np.ndarray | None:
    if part is None:
        return None
    found = _ids(part["ids"], size) - 1
    if found.max() >= len(words):
        raise ValueError("the number of a class")
    return found


def _instances(
    rows: Sequence[dict[str, Any]] | None, size: tuple[int, int], words: Vocabulary
) -> InstanceResult | None:
    if rows is None:
        return None
    codes = as_rles([row["segmentation"] for row in rows], size, "instances")
    return InstanceResult(
        boxes=np.array([row["box"] for row in rows], np.float32).reshape(-1, 4),
        masks=decode_masks(codes, size),
        scores=np.array([row["score"] for row in rows], np.float32),
        class_ids=np.array([_class_id(row["class_id"], words) for row in rows], np.int64),
        names=[row["name"] for row in rows],
    )
