"""The middlewares around all requests: limits, token, security headers and metrics."""

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import HTTPException

from frozenseg.serve.limits import Limits
from frozenseg.serve.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Any, Receive, Send], Awaitable[None]]

# The page uses only its own scripts and styles, and sends nothing to other hosts.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src 'self' blob:; font-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (b"cache-control", b"no-store"),
]
PROTECTED = ("/v1/", "/metrics")  # paths that need the token, if there is one


class Stamp:
    """The outermost ASGI middleware: it adds security headers to every answer and counts it.

    This includes the answer to a request that fails with an internal error.
    """

    def __init__(self, app: AsgiApp, *, metrics: Metrics, paths: set[str]) -> None:
        """metrics: counts the requests. paths: counted separately; all others as "other"."""
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request; connections of other types are passed on unchanged."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.monotonic()
        path = scope["path"] if scope["path"] in self.paths else "other"
        begun = False

        async def stamped(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", []), *HEADERS]
                self.metrics.request(path, message["status"], time.monotonic() - start)
            await send(message)

        try:
            await self.app(scope, receive, stamped)
        except Exception:
            if not begun:
                await _refuse(stamped, 500, "an internal error; the service's log has the details")
            raise  # the server logs it


class Guard:
    """An ASGI middleware that refuses requests which must not reach the service.

    It refuses a body of more than `limits.upload` bytes (by its declared length, or as soon as too
    many bytes have arrived) or that arrives too slowly, a request without the token, a form from
    the page of another site, and a form that arrives while `limits.requests` others are being read
    and answered.
    """

    def __init__(
        self, app: AsgiApp, *, limits: Limits, token: str | None, origins: tuple[str, ...]
    ) -> None:
        """token: required in requests, or None. origins: sites whose pages may send forms."""
        self.app, self.limits = app, limits
        self.expected = None if token is None else token.encode()
        self.origins = {origin.encode() for origin in origins}
        self.forms = 0  # number of forms that are being read and answered

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request; connections of other types are passed on unchanged."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["method"] == "POST" and self._is_foreign(headers):
            await _refuse(send, 403, "pages of other sites may not call this service")
        elif scope["path"].startswith(PROTECTED) and not self._is_known(headers):
            await _refuse(send, 401, "this service needs a token: Authorization: Bearer TOKEN")
        elif _declared(headers) > self.limits.upload:
            await _refuse(send, 413, self._too_large())
        elif scope["method"] != "POST":
            await self.app(scope, receive, send)
        elif self.forms >= self.limits.requests:
            await _refuse(send, 503, "too many requests are being answered; try again soon")
        else:
            self.forms += 1
            try:
                await self.app(scope, self._bounded(receive), send)
            finally:
                self.forms -= 1

    def _is_foreign(self, headers: dict[bytes, bytes]) -> bool:
        """Tell whether a browser sent this request for a page of a site that is not allowed.

        Browsers send simple forms without asking the service first, and only hide the answer from
        the page. They say where a request comes from (Sec-Fetch-Site) only if it goes to this
        machine or over TLS; other clients do not say it.
        """
        if headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin"):
            return False
        return headers.get(b"origin") not in self.origins

    def _is_known(self, headers: dict[bytes, bytes]) -> bool:
        if self.expected is None:
            return True
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        # RFC 9110, section 11.1: the case of the scheme does not matter.
        is_bearer = scheme.lower() == b"bearer"
        return hmac.compare_digest(token.lstrip(b" "), self.expected) and is_bearer

    def _too_large(self) -> str:
        return f"the request has more than {self.limits.upload / 2**20:g} MB; send less"

    def _too_slow(self) -> str:
        limits = self.limits
        return (
            f"the request arrived too slowly; send it with no pause of {limits.silence:g} s, and "
            f"within {limits.arrival:g} s"
        )

    def _bounded(self, receive: Receive) -> Receive:
        read, whole = 0, False
        deadline = time.monotonic() + self.limits.arrival

        async def bounded() -> Message:
            nonlocal read, whole
            if whole:  # what is left to receive is that the client disconnects
                return await receive()
            patience = min(self.limits.silence, deadline - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), patience)
            except asyncio.TimeoutError:
                raise HTTPException(408, self._too_slow(), {"Connection": "close"}) from None
            whole = not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > self.limits.upload:
                raise HTTPException(413, self._too_large())
            return message

        return bounded


def _declared(headers: dict[bytes, bytes]) -> int:
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() and len(length) < 20 else 0


async def _refuse(send: Send, status: int, line: str) -> None:
    body = json.dumps({"error": line}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
