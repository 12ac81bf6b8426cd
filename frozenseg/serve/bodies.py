"""The JSON of answers, field by field; `/openapi.json` describes the answers with these types."""

# Before Python 3.12, pydantic only supports `TypedDict` from typing_extensions, a package that
# pydantic and PyTorch both depend on.
from typing_extensions import NotRequired, TypedDict


class ErrorBody(TypedDict):
    """The body of every error: one line that says what is wrong."""

    error: str


class RunLengths(TypedDict):
    """A mask as COCO's compressed run lengths. size: height and width."""

    size: list[int]
    counts: str


class ClassBody(TypedDict):
    """A class of the request; its first name is displayed. id: its index in the vocabulary."""

    id: int
    names: list[str]
    is_thing: bool


class SegmentBody(TypedDict):
    """A panoptic segment.

    id: the number of the segment in the map of ids, from 1.
    class_id: the `id` of its class.
    name: the name of its class that fits best.
    is_thing: true for a single object, false for a region of stuff.
    score: 0 to 1; null if the model gives none.
    area: in pixels.
    box: left, top, right, bottom in pixels; right and bottom are exclusive.
    segmentation: its mask, only in the format `json`.
    """

    id: int
    class_id: int
    name: str
    is_thing: bool
    score: float | None
    area: int
    box: list[int]
    segmentation: NotRequired[RunLengths]


class SemanticClass(TypedDict):
    """All pixels of a class. area: their number. segmentation: only in the format `json`."""

    class_id: int
    name: str
    area: int
    segmentation: NotRequired[RunLengths]


class InstanceBody(TypedDict):
    """An object, which may overlap others. box: left, top, right, bottom in pixels."""

    class_id: int
    name: str
    score: float
    area: int
    box: list[float]
    segmentation: RunLengths


class PanopticBody(TypedDict):
    """The panoptic part.

    ids: only in the format `map`, a PNG of segment ids in base64; 0 is no segment.
    """

    segments: list[SegmentBody]
    ids: NotRequired[str]


class SemanticBody(TypedDict):
    """The semantic part. ids: only in the format `map`, a PNG of 1 + `class_id` in base64."""

    classes: list[SemanticClass]
    ids: NotRequired[str]


class SegmentationBody(TypedDict):
    """The answer to one image.

    width, height: the size of the image in pixels.
    note: a warning about the model, e.g. that its weights are random; null if there is none.
    model: the name of the model.
    seconds: the time that the model took.
    classes: the classes of the request, in its order.
    panoptic, semantic, instances: null if not requested, or not produced by the model.
    """

    width: int
    height: int
    note: str | None
    model: str
    seconds: float
    classes: list[ClassBody]
    panoptic: PanopticBody | None
    semantic: SemanticBody | None
    instances: list[InstanceBody] | None
