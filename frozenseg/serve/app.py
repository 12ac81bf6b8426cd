"""The HTTP interface: routes, their parameters, and their errors."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse
from fastapi.routing import APIRoute
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser

import frozenseg
from frozenseg.serve.bodies import ErrorBody, SegmentationBody
from frozenseg.serve.fields import (
    ABOUT,
    ERRORS,
    Format,
    JsonFormat,
    Tasks,
    Things,
    Threshold,
    Words,
    check_fields,
    errors,
)
from frozenseg.serve.guard import Guard, Stamp
from frozenseg.serve.jobs import TASKS, Answer, Job, Refusal
from frozenseg.serve.limits import Limits
from frozenseg.serve.lists import class_lists, example_files, examples
from frozenseg.serve.pool import Pool
from frozenseg.serve.privacy import nothing_logged
from frozenseg.serve.words import read_vocabulary
from frozenseg.text.vocabulary import Vocabulary

PAGE = Path(str(resources.files("frozenseg.serve") / "page"))


def make_app(pool: Pool, *, token: str | None = None, origins: tuple[str, ...] = ()) -> FastAPI:
    """Build the HTTP application that answers requests with a pool.

    token: the token that requests must contain, or None. origins: other sites whose pages may call
    the service.
    """
    # The size of uploads is limited, so they can stay in memory: no part of a request is written
    # to disk.
    MultiPartParser.spool_max_size = pool.limits.upload

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with nothing_logged():
            pool.start()
            try:
                yield
            finally:  # also if the server is forced to end at once
                await pool.close()

    app = FastAPI(
        title="FrozenSeg",
        version=frozenseg.__version__,
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from another host
        redoc_url=None,
    )
    _handle_errors(app)
    _add_state(app, pool)
    _add_segmentation(app, pool)
    _add_page(app)
    _add_head(app)
    _add_middleware(app, pool, token, origins)
    return app


def _add_middleware(app: FastAPI, pool: Pool, token: str | None, origins: tuple[str, ...]) -> None:
    """Add the middlewares; each one wraps those that were added before it."""
    app.add_middleware(Guard, limits=pool.limits, token=token, origins=origins)
    if origins:
        # This wraps the guard, for two reasons: before it sends the token, a browser asks without
        # it whether it may (the preflight request); and it shows a page only those error answers
        # whose headers allow the page's site.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["Authorization"],
        )
    paths = {route.path for route in app.routes if hasattr(route, "path")}
    app.add_middleware(Stamp, metrics=pool.metrics, paths=paths)


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        wait = error.retry_after
        headers = None if wait is None else {"Retry-After": str(wait)}
        return _error(error.status, error.message, headers)

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(404)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        return _error(404, "there is nothing at this address; /docs lists the addresses")

    @app.exception_handler(405)
    async def wrong_method(request: Request, error: Exception) -> JSONResponse:
        line = f"this address does not accept {request.method}; see /docs"
        allowed = getattr(error, "headers", {})["Allow"]
        return _error(405, line, {"Allow": "GET, HEAD" if allowed == "GET" else allowed})

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # `loc` is ("body", field) or ("body", field, index in a list).
        lines = [f"{row['loc'][:2][-1]}: {row['msg']}" for row in error.errors()]
        return _error(422, "; ".join(lines[:5]))


def _error(status: int, line: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": " ".join(line.split())}, status, headers)


def _add_state(app: FastAPI, pool: Pool) -> None:
    @app.get(
        "/healthz", summary="Is the service alive?", response_description="The service is alive."
    )
    async def alive() -> dict[str, str]:
        return {"status": "alive"}

    @app.get(
        "/readyz",
        summary="Is the model ready?",
        response_description="The model is ready.",
        responses=errors(503),
    )
    async def ready() -> dict[str, str]:
        pool.ready()
        return {"status": "ready"}

    @app.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        response_description="The metrics in Prometheus's format.",
        responses={200: {"content": {"text/plain": {}}}, **errors(401)},
    )
    async def metrics() -> Response:
        return Response(pool.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get(
        "/v1/models",
        summary="The model, its limits, class lists and examples",
        response_description="The model, class lists and examples that the page offers.",
        responses=errors(401, 503),
    )
    async def models() -> dict[str, Any]:
        info, limits = pool.ready(), pool.limits
        model = {
            "name": pool.source.name,
            "knows": info.knows,
            "note": info.note,
            "device": info.device,
            "limits": {
                "upload_mb": limits.upload / 2**20,
                "megapixels": limits.pixels / 1e6,
                "names": limits.names,
                "letters": limits.letters,
                "images": limits.images,
            },
        }
        return {"models": [model], "lists": class_lists(), "examples": examples()}


def _add_segmentation(app: FastAPI, pool: Pool) -> None:
    several = Field(min_length=1, max_length=pool.limits.images)

    @app.post(
        "/v1/segment",
        summary="Segment one image",
        response_description="The segments as JSON, or a picture for the formats png and overlay.",
        response_class=Response,
        responses={200: {"model": SegmentationBody, "content": {"image/png": {}}}, **ERRORS},
    )
    async def segment(
        request: Request,
        image: Annotated[UploadFile, File(description="An image file, e.g. JPEG or PNG.")],
        vocabulary: Words,
        things: Things = None,
        threshold: Threshold = 0.25,
        tasks: Tasks = "panoptic,semantic,instances",
        format: Format = "json",
    ) -> Response:
        await check_fields(request, "image")
        words = await _words(request, vocabulary, things, pool.limits)
        job = Job(await image.read(), words, threshold, _tasks(tasks), format)
        (outcome,) = await pool.submit([job], request.is_disconnected)
        if isinstance(outcome, Refusal):
            raise outcome
        return Response(outcome.body, outcome.status, media_type=outcome.media_type)

    @app.post(
        "/v1/segment/batch",
        summary="Segment several images with one vocabulary",
        response_description="A list with the answer or error for each image, in their order.",
        response_class=JSONResponse,
        responses={200: {"model": list[SegmentationBody | ErrorBody]}, **ERRORS},
    )
    async def segment_batch(
        request: Request,
        images: Annotated[list[UploadFile], File(description="Image files."), several],
        vocabulary: Words,
        things: Things = None,
        threshold: Threshold = 0.25,
        tasks: Tasks = "panoptic,semantic,instances",
        format: JsonFormat = "json",
    ) -> Response:
        await check_fields(request, "images")
        words = await _words(request, vocabulary, things, pool.limits)
        contents = await asyncio.gather(*(image.read() for image in images))
        jobs = [Job(part, words, threshold, _tasks(tasks), format) for part in contents]
        outcomes = await pool.submit(jobs, request.is_disconnected)
        body = b"[%s]" % b",".join(map(_entry, outcomes))
        return Response(body, media_type="application/json")


async def _words(
    request: Request, vocabulary: str, things: str | None, limits: Limits
) -> Vocabulary:
    if (await request.form()).get("things") == "":
        things = ""  # no class is a thing; FastAPI takes empty text for an absent field
    return await asyncio.to_thread(read_vocabulary, vocabulary, things, limits)


def _tasks(text: str) -> tuple[str, ...]:
    tasks = tuple(part.strip() for part in text.split(","))
    if unknown := [task for task in tasks if task not in TASKS]:
        raise Refusal(422, f"tasks: {unknown[0][:40]!r} is not one of {', '.join(TASKS)}")
    return tasks


def _entry(outcome: Answer | Refusal) -> bytes:
    """Encode one entry of the answer to a batch; an `Answer` holds JSON already."""
    if isinstance(outcome, Refusal):
        return json.dumps({"error": outcome.message}).encode()
    return outcome.body


def _add_page(app: FastAPI) -> None:
    files = {path.relative_to(PAGE).as_posix(): path for path in PAGE.rglob("*") if path.is_file()}

    def add(address: str, path: Path) -> None:
        async def send() -> FileResponse:
            return FileResponse(path)

        app.add_api_route(address, send, include_in_schema=False)

    addresses = {f"/page/{name}": path for name, path in files.items()}
    for address, path in (addresses | example_files()).items():
        add(address, path)
    for address, name in (("/", "index.html"), ("/docs", "docs.html")):
        if name in files:
            add(address, files[name])


def _add_head(app: FastAPI) -> None:
    """Accept HEAD at all GET addresses: load balancers probe with it. The server sends no body.

    FastAPI, unlike Starlette, does not add it. `/openapi.json` describes GET alone.
    """
    for route in list(app.routes):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)
