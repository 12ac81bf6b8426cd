"""What `/openapi.json` says of the fields of a request and of the errors."""

from typing import Annotated, Any, Literal

from fastapi import Form

from frozenseg.serve.bodies import ErrorBody

ABOUT = """Segments images by names that come with the request.

A class is written as its synonyms between commas, and classes are separated by `;`:
`car, truck; road`. All errors are `{"error": "one line"}`."""

Words = Annotated[
    str,
    Form(
        description='Classes: text like "car, truck; road", or JSON like ["car, truck", "road"].',
        examples=["car, truck; road; sky"],
    ),
]
Things = Annotated[
    str | None,
    Form(
        description="The classes that are countable things, in the same forms; `[]`: none. "
        "Without it a class is a thing unless COCO knows it as stuff.",
        examples=["car, truck"],
    ),
]
Threshold = Annotated[
    float, Form(ge=0, le=1, description="The least score of a segment or an instance.")
]
Tasks = Annotated[
    str,
    Form(
        description="Some of panoptic, semantic, instances, with commas between.",
        examples=["panoptic,instances"],
    ),
]
Format = Annotated[
    Literal["json", "map", "png", "overlay"],
    Form(
        description="json: masks as COCO run lengths. map: panoptic and semantic masks as one PNG "
        "of ids each, in base64 within the JSON. png: the panoptic ids alone (COCO's PNG). "
        "overlay: the picture with its masks and a legend."
    ),
]
JsonFormat = Annotated[Literal["json", "map"], Form(description="See /v1/segment.")]


def _error(description: str, line: str) -> dict[str, Any]:
    content = {"application/json": {"example": {"error": line}}}
    return {"description": description, "model": ErrorBody, "content": content}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("The body is no multipart form.", "Invalid multipart data."),
    401: _error(
        "The token is absent or wrong.", "this service needs a token: Authorization: Bearer TOKEN"
    ),
    403: _error("The page of another site asks.", "pages of other sites may not call this service"),
    413: _error(
        "The request or an image is too large.", "the request has more than 20 MB; send less"
    ),
    422: _error("The image or a field cannot be used.", "vocabulary: 3000 names, at most 2000"),
    503: _error(
        "The queue is full, or the model is not ready.",
        "the queue is full (32 images wait); try again soon",
    ),
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the descriptions of some of the errors."""
    return {status: ERRORS[status] for status in statuses}
