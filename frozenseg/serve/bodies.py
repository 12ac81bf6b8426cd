"""The JSON of an answer, field by field; the description of the interface is made from this."""

# Before Python 3.12 pydantic reads only these; it brings them along, as PyTorch does.
from typing_extensions import NotRequired, TypedDict


class ErrorBody(TypedDict):
    """What every refusal says."""

    error: str


class RunLengths(TypedDict):
    """A mask as COCO's compressed run lengths. size: height and width."""

    size: list[int]
    counts: str


class ClassBody(TypedDict):
    """A class of the request; the first of its names is shown. id: its place in the vocabulary."""

    id: int
    names: list[str]
    is_thing: bool


class SegmentBody(TypedDict):
    """A panoptic segment.

    id: its number in the map of ids, from 1.
    class_id: the `id` of its class.
    name: the name that fitted best.
    is_thing: whether it is one object, or a region.
    score: 0 to 1, null where the model gives none.
    area: pixels.
    box: left, top, right, bottom in pixels; the last two lie just outside.
    segmentation: its mask, in the format `json`.
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
    """All pixels of a class. area: their number. segmentation: in the format `json`."""

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
    """The panoptic part. ids: in the format `map`, a PNG of ids in base64; 0 is no segment."""

    segments: list[SegmentBody]
    ids: NotRequired[str]


class SemanticBody(TypedDict):
    """The semantic part. ids: in the format `map`, a PNG of 1 + `class_id` in base64."""

    classes: list[SemanticClass]
    ids: NotRequired[str]


class SegmentationBody(TypedDict):
    """The answer to one image.

    width, height: of the image in pixels.
    note: a warning about the model, e.g. that its weights are random; else null.
    model: its name.
    seconds: that the model took.
    classes: of the request, in its order.
    panoptic, semantic, instances: null if not asked for, or not made by the model.
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
