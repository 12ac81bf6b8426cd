"""Requests that mean harm: each has its status, and the service goes on."""

import io
import json
import os
import pickle
import socket
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from frozenseg.files import shipped

pytestmark = pytest.mark.slow

SCENE = (shipped("demo") / "images" / "scene_2.png").read_bytes()
UPLOAD = 20 * 2**20
Part = tuple[str, bytes]


def form(*parts: Part, more: str = "", path: str = "/v1/segment") -> bytes:
    """A whole request with the parts of a form; more: further lines of its head."""
    body = b"".join(
        b"--x\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), content)
        for head, content in parts
    )
    body += b"--x--\r\n"
    return head(f"POST {path}", f"{more}Content-Length: {len(body)}\r\n") + body


def head(line: str, more: str = "") -> bytes:
    kind = "Content-Type: multipart/form-data; boundary=x\r\n"
    return f"{line} HTTP/1.1\r\nHost: a\r\n{kind}{more}Connection: close\r\n\r\n".encode()


def image(content: bytes, name: str = "a.png") -> Part:
    return f'name="image"; filename="{name}"', content


def words(text: str | bytes = "sky; sand") -> Part:
    return 'name="vocabulary"', text if isinstance(text, bytes) else text.encode()


def huge_png(side: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels a side."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", b"x")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def many_frames() -> bytes:
    """A GIF of a thousand frames, of which one is wanted."""
    file = io.BytesIO()
    frames = [Image.new("P", (64, 64), number % 256) for number in range(1000)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


class Opens:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.folder,)


EXTERNAL = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><text>&a;</text></svg>"""


def endless() -> Iterable[bytes]:
    yield head("POST /v1/segment", "Transfer-Encoding: chunked\r\n")
    start = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    yield b"%x\r\n%s\r\n" % (len(start), start)
    block = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    for _ in range(2 * UPLOAD // 2**16):
        yield block


HOSTILE: dict[str, tuple[bytes | Callable[[], Iterable[bytes]], int]] = {
    "a PNG of 60 bytes with 100 million pixels": (form(image(huge_png(10_000)), words()), 413),
    "a PNG of 60 bytes with 3.6 billion pixels": (form(image(huge_png(60_000)), words()), 422),
    "a body that is said to have 10 GB": (
        head("POST /v1/segment", "Content-Length: 10000000000\r\n"),
        413,
    ),
    "a body in chunks that does not end": (endless, 413),
    "two lengths, to smuggle a second request in": (
        head("POST /v1/segment", "Content-Length: 6\r\nContent-Length: 5\r\n") + b"0\r\n\r\nG",
        400,
    ),
    "a path out of the page's folder": (head("GET /page/..%2f..%2fapp.py"), 404),
    "a path out of the disk's root": (head("GET //../../../../etc/passwd"), 404),
    "a file of the server as the words": (form(image(SCENE), words("/etc/passwd.txt")), 422),
    "JSON in 100,000 brackets as the words": (form(image(SCENE), words("[" * 100_000)), 422),
    "a pickle that makes a folder as the image": (
        form(image(pickle.dumps(Opens("broken_into")))),
        422,
    ),
    "an SVG that includes a file of the server": (form(image(EXTERNAL), words()), 422),
    "a form of 5,000 fields": (form(*[(f'name="{n}"', b"") for n in range(5000)]), 400),
    "a head of 1 MB": (head("GET /healthz", "A: " + "a" * 2**20 + "\r\n"), 400),
    "a form of another site's page": (
        form(image(SCENE), words(), more="Sec-Fetch-Site: cross-site\r\nOrigin: http://b\r\n"),
        403,
    ),
    "a threshold that is no number": (
        form(image(SCENE), words(), ('name="threshold"', b"NaN")),
        422,
    ),
    "words that are not UTF-8": (form(image(SCENE), words(b"sky; \xff\xfe")), 200),
    "names with control characters": (form(image(SCENE), words("sky; \x00\x1b[2J\u202e")), 422),
    "a file name that leads out of a folder": (
        form(image(SCENE, "../../broken_into"), words()),
        200,
    ),
    "a GIF of a thousand frames": (form(image(many_frames(), "a.gif"), words()), 200),
}


def ask(url: str, request: bytes | Iterable[bytes]) -> tuple[int, bytes]:
    """Send bytes as they are; the status and the whole answer."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=120) as connection:
        try:
            for part in [request] if isinstance(request, bytes) else request:
                connection.sendall(part)
        except OSError:
            pass  # it need not listen to the end
        answer = b""
        try:
            while part := connection.recv(2**16):
                answer += part
        except OSError:
            pass
    return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.parametrize("name", HOSTILE)
def test_harm_is_answered_with_a_status(service, name: str) -> None:
    request, status = HOSTILE[name]
    found, answer = ask(service.url, request if isinstance(request, bytes) else request())
    body = answer.split(b"\r\n\r\n", 1)[1]
    assert found == status, body[:500]
    for told in (b"Traceback", b"root:", b"/site-packages/", os.fsencode(Path.cwd())):
        assert told not in answer
    assert not (Path(f"/proc/{service.process.pid}/cwd") / "broken_into").exists()
    if status != 200 and body.startswith(b"{"):
        assert set(json.loads(body)) == {"error"}
    assert ask(service.url, head("GET /readyz"))[0] == 200


def test_a_client_that_sends_half_its_request_keeps_nobody_waiting(service) -> None:
    place = urlsplit(service.url)
    whole = form(image(SCENE), words())
    slow = [socket.create_connection((place.hostname, place.port)) for _ in range(30)]
    for connection in slow:
        connection.sendall(whole[: len(whole) // 2])
    assert ask(service.url, whole)[0] == 200
    for connection in slow:
        connection.close()
    assert ask(service.url, whole)[0] == 200
