"""The fields of a request and the errors: their descriptions in `/openapi.json`, and a check."""

from collections import Counter
from typing import Annotated, Any, Literal

from fastapi import Form, Request

from frozenseg.errors import nearest
from frozenseg.serve.bodies import ErrorBody
from frozenseg.serve.jobs import Refusal

ABOUT = """Segments images into the classes that are named in the request.

Classes are separated by `;`, and synonyms of a class by commas: `car, truck; road`. Each
field may be sent once, `images` several times; other fields are refused. All errors are
`{"error": "one line"}`."""

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
        description="The classes that are countable things, in the same forms; empty text or `[]` "
        "for none. Without this field, a class is a thing unless it is a stuff class of COCO.",
        examples=["car, truck"],
    ),
]
Threshold = Annotated[
    float, Form(ge=0, le=1, description="The lowest score of the segments and instances to keep.")
]
Tasks = Annotated[
    str,
    Form(
        description="One or more of panoptic, semantic, instances, separated by commas.",
        examples=["panoptic,instances"],
    ),
]
Format = Annotated[
    Literal["json", "map", "png", "overlay"],
    Form(
        description="json: masks as COCO run lengths. map: panoptic and semantic masks as one PNG "
        "of ids each, in base64 within the JSON. png: only the panoptic ids (COCO's PNG). "
        "overlay: the picture with its masks and a legend."
    ),
]
JsonFormat = Annotated[Literal["json", "map"], Form(description="See /v1/segment.")]


def _error(description: str, line: str) -> dict[str, Any]:
    content = {"application/json": {"example": {"error": line}}}
    return {"description": description, "model": ErrorBody, "content": content}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("The body is not a multipart form.", "Invalid multipart data."),
    401: _error(
        "The token is missing or wrong.", "this service needs a token: Authorization: Bearer TOKEN"
    ),
    403: _error(
        "The request comes from a page of another site.",
        "pages of other sites may not call this service",
    ),
    408: _error(
        "The request arrives too slowly.",
        "the request arrived too slowly; send it with no pause of 20 s, and within 360 s",
    ),
    413: _error(
        "The request or an image is too large.", "the request has more than 20 MB; send less"
    ),
    422: _error(
        "The image or a field cannot be used.", "vocabulary: 3000 names, at most 2000 are allowed"
    ),
    503: _error(
        "The queue is full, or the model is not ready.",
        "the queue is full (32 images are waiting); try again soon",
    ),
}


async def check_fields(request: Request, images: str) -> None:
    """Raise `Refusal` for what FastAPI ignores: unknown fields, fields in the address, repetitions
    of a field, and empty text in it.

    FastAPI would take the last of several values, and the default in place of an empty one. Only
    `things` may be empty: no class is a thing. images: the field of the image, or "images", which
    may be repeated.
    """
    known = [images, "vocabulary", "things", "threshold", "tasks", "format"]
    if misplaced := [name for name in known if name in request.query_params]:
        raise Refusal(422, f"{misplaced[0]}: stands in the address; send it as a field of the form")
    form = await request.form()  # FastAPI has read it already
    for name, count in Counter(name for name, _ in form.multi_items()).items():
        if name not in known:
            raise Refusal(422, f"{name[:40]}: no such field; {nearest(name[:40], known)}")
        if count > 1 and name != "images":
            raise Refusal(422, f"{name}: sent {count} times; send it once (see /docs)")
        if form[name] == "" and name != "things":
            raise Refusal(422, f"{name}: empty; leave it out for the default")


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the descriptions of the errors with these HTTP statuses."""
    return {status: ERRORS[status] for status in statuses}
