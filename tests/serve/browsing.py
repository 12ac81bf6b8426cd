"""Real Chromium for tests of the page, and answers of the service that are made up here."""

import base64
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

INSTALL = (
    "needs Chromium and Playwright: apt-get install --no-install-recommends chromium "
    "fonts-dejavu-core; pip install playwright==1.65.2"
)
INSTALL_AXE = (
    "needs axe-core: npm pack axe-core@4.14.1, unpack it, and set FROZENSEG_AXE to its axe.min.js"
)
# No sandbox, because the tests may run as root; a picture of a test card stands for the camera.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip
# The machine may be busy with other things; a test that fails waits this long, in milliseconds.
PATIENCE = 60_000


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser of this machine; skip the test where it or Playwright is absent."""
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    program = next(filter(None, found), None)
    if program is None:
        pytest.skip(INSTALL)
    playwright = pytest.importorskip("playwright.sync_api", reason=INSTALL)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


class Visit:
    """One page in a window of its own, which remembers what it asked for and what failed."""

    def __init__(self, browser: Any, url: str, *, phone: bool = False, dark: bool = False) -> None:
        self.context = browser.new_context(
            viewport={"width": 360, "height": 740} if phone else {"width": 1280, "height": 860},
            color_scheme="dark" if dark else "light",
            has_touch=phone,
        )
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.url = url
        self.requests: list[str] = []
        self.failures: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.failures.append(str(error)))
        self.page.on("console", self._heard)

    def _heard(self, message: Any) -> None:
        # Chromium itself reports each answer above 399, which some tests want.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.failures.append(message.text)

    def open(self, address: str = "/") -> Any:
        """Open an address of the service and wait until the page has asked what there is."""
        self.page.goto(self.url + address)
        if not address.startswith("/docs"):
            self.page.wait_for_selector("#run:enabled")
        return self.page

    def asked(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(url.startswith(self.url + path) for url in self.requests)

    def close(self) -> None:
        """End the visit; nothing has failed, and nothing was asked of another host."""
        self.context.close()
        own = (self.url, "blob:", "data:")
        assert [url for url in self.requests if not url.startswith(own)] == []
        assert self.failures == []


def wait_for(page: Any, expression: str) -> None:
    """Wait until an expression holds on a page, whose rules forbid Playwright's own way to wait."""
    end = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"this did not happen: {expression}"
        page.wait_for_timeout(50)


def ids_png(ids: np.ndarray) -> bytes:
    """Ids (H, W) as the PNG that the service sends: R + 256 G + 65536 B."""
    file = io.BytesIO()
    Image.fromarray(np.stack([ids, ids >> 8, ids >> 16], axis=-1).astype(np.uint8)).save(
        file, "PNG"
    )
    return file.getvalue()


def png_ids(png: bytes) -> np.ndarray:
    """The inverse of `ids_png`."""
    pixels = np.asarray(Image.open(io.BytesIO(png)), dtype=np.int64)
    return pixels @ [1, 256, 65536]


def hundred_segments() -> tuple[bytes, dict[str, Any]]:
    """A picture of 1200 x 800 pixels in a hundred tiles, and an answer with a segment for each."""
    tiles = np.arange(1, 101).reshape(10, 10)
    ids = np.kron(tiles, np.ones((80, 120), dtype=np.int64))
    picture = io.BytesIO()
    Image.fromarray((ids * 37 % 256).astype(np.uint8)).convert("RGB").save(picture, "PNG")
    classes = [{"id": k, "names": [f"kind {k}"], "is_thing": True} for k in range(20)]
    segments = [
        {
            "id": int(number),
            "class_id": int(number) % 20,
            "name": f"kind {number % 20}",
            "is_thing": True,
            "score": int(number) / 100,
            "area": 9600,
            "box": [120 * column, 80 * row, 120 * column + 120, 80 * row + 80],
        }
        for (row, column), number in np.ndenumerate(tiles)
    ]
    answer = {
        "width": 1200, "height": 800, "model": "made up", "note": "Made up for a test.",
        "seconds": 0.1, "classes": classes, "semantic": None, "instances": None,
        "panoptic": {"ids": base64.b64encode(ids_png(ids)).decode(), "segments": segments},
    }  # fmt: skip
    return picture.getvalue(), answer


def axe() -> str:
    """The accessibility checker axe-core; skip the test where FROZENSEG_AXE names no file."""
    path = Path(os.environ.get("FROZENSEG_AXE", ""))
    if not path.is_file():
        pytest.skip(INSTALL_AXE)
    return path.read_text()


def with_answer(page: Any, answer: dict[str, Any], status: int = 200, **headers: str) -> None:
    """Let the service answer the next pictures so."""
    body = json.dumps(answer)
    page.route(
        "**/v1/segment", lambda route: route.fulfill(status=status, body=body, headers=headers)
    )


def show_hundred(page: Any) -> None:
    picture, answer = hundred_segments()
    with_answer(page, answer)
    page.set_input_files("#file", {"name": "many.png", "mimeType": "image/png", "buffer": picture})
    page.fill("#word", "kind")
    page.click("#run")
    page.wait_for_selector(".with-result")
