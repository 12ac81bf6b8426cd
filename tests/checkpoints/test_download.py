"""Published weights: the table, and downloads that break, go on, and are refused.

Everything is fetched from a server on this machine.
"""

import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import frozenseg
from frozenseg.checkpoints import download as module
from frozenseg.checkpoints import resuming
from frozenseg.checkpoints.download import download
from frozenseg.checkpoints.published_files import PUBLISHED, PublishedFile, find_published
from frozenseg.commands import download as command
from frozenseg.errors import UserError

CONTENT = b"\x80\x02" + (bytes(range(256)) * 5000)[2:]  # as a pickle; more than one block
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Files(BaseHTTPRequestHandler):
    """Gives CONTENT: in parts if asked, up to byte `breaks_at` of it, or a page for /page."""

    breaks_at, asked = 0, []  # of all requests
    tag, told = "", []  # the version of the file; what clients have told of theirs
    body = b""  # in place of CONTENT, without its length

    def do_GET(self) -> None:  # noqa: N802
        if self.path == "/body":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.body)
            return None
        self.told.append(self.headers.get("If-Range", ""))
        if self.told[-1] not in ("", self.tag):
            del self.headers["Range"]
        begin = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")
        self.asked.append((self.path, int(begin)))
        body = CONTENT[int(begin) :]
        kind = "text/html; charset=utf-8" if "page" in self.path else "application/octet-stream"
        if self.path == "/absent":
            return self.send_error(404)
        if not body:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            return self.end_headers()
        ranges = "Range" in self.headers and self.path != "/whole"
        self.send_response(206 if ranges else 200)
        self.send_header("Content-Type", kind)
        if self.tag:
            self.send_header("ETag", self.tag)
        self.send_header("Content-Length", str(len(body if ranges else CONTENT)))
        self.end_headers()
        sent = body if ranges else CONTENT
        self.wfile.write(sent[: self.breaks_at or None])
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Files, "asked", [])
    monkeypatch.setattr(Files, "breaks_at", 0)
    monkeypatch.setattr(Files, "told", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def row(address: str, **fields: object) -> PublishedFile:
    row = PublishedFile(holds="x", address=address, saved_as="x.pth", licence="none")
    return replace(row, **fields)  # type: ignore[arg-type]


PART, WHOLE = Path("pretrained_checkpoint/x.pth.part"), Path("pretrained_checkpoint/x.pth")


def test_a_file_is_fetched_and_checked_once(server: str) -> None:
    known = row(f"{server}/x", size=len(CONTENT), sha256=DIGEST)
    for _ in range(2):  # the second time it is here
        done = download(known)
        assert (done.path, done.sha256, done.checked) == (WHOLE, DIGEST, True)
    assert WHOLE.read_bytes() == CONTENT and not PART.exists()
    assert Files.asked == [("/x", 0)]


@pytest.mark.parametrize("path", ["/x", "/whole"])
def test_a_broken_download_goes_on(server: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """/whole ignores where the rest begins, and sends it all."""
    monkeypatch.setattr(Files, "breaks_at", 300_000)
    monkeypatch.setattr(resuming, "TRIES", 1)
    known = row(server + path, sha256=DIGEST)
    with pytest.raises(UserError, match=r"broke off after 300,000 of 1,280,000 bytes; the same"):
        download(known)
    assert PART.stat().st_size == 300_000 and not WHOLE.exists()
    monkeypatch.setattr(Files, "breaks_at", 0)
    assert download(known).path.read_bytes() == CONTENT
    assert [begin for _, begin in Files.asked] == [0, 300_000]
    assert not PART.exists()


def test_a_start_anew_that_breaks_off_is_not_complete(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of the part that was there before do not count."""
    monkeypatch.setitem(globals(), "CONTENT", CONTENT[:3000])  # fits into the file's write buffer
    monkeypatch.setattr(Files, "breaks_at", 2500)
    PART.parent.mkdir()
    PART.write_bytes(CONTENT[:1000])
    monkeypatch.setattr(resuming, "TRIES", 1)
    with pytest.raises(UserError, match=r"broke off after 2,500 of 3,000 bytes"):
        with resuming.fetched(resuming.Remote(url=f"{server}/whole", said="x"), PART):
            pass


def test_connections_that_break_are_gone_on_with(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Files, "breaks_at", 300_000)
    assert download(row(f"{server}/x", sha256=DIGEST)).path.read_bytes() == CONTENT
    assert [begin for _, begin in Files.asked] == [0, 300_000, 600_000, 900_000, 1_200_000]
    WHOLE.unlink()
    with pytest.raises(UserError, match="broke off after 300,000"):  # it never gets any further
        download(row(f"{server}/whole"))
    assert len(Files.asked) == 7


def test_a_part_that_is_whole_already_is_taken(server: str) -> None:
    PART.parent.mkdir()
    for fields in ({}, {"size": len(CONTENT)}):
        PART.write_bytes(CONTENT)
        done = download(row(f"{server}/x", **fields))
        assert done.path.read_bytes() == CONTENT and not done.checked
        WHOLE.unlink()
    assert Files.asked == [("/x", len(CONTENT))]  # with the size known nobody is asked


def test_what_is_not_the_published_file_is_refused(server: str) -> None:
    wrong = row(f"{server}/x", sha256="0" * 64)
    with pytest.raises(UserError, match=f"has the SHA-256 {DIGEST}, but the published file has 0"):
        download(wrong)
    assert not PART.exists() and not WHOLE.exists()
    with pytest.raises(UserError, match=r"has 1,280,000 bytes, but the published file has 5"):
        download(row(f"{server}/x", size=5))
    assert not PART.exists() and not WHOLE.exists()
    WHOLE.write_bytes(b"of another kind")
    with pytest.raises(UserError, match="move it away, and fetch it again"):
        download(wrong)
    assert WHOLE.exists()


def archive() -> bytes:
    whole = io.BytesIO()
    torch.save({"x": torch.zeros(1000)}, whole)
    return whole.getvalue()


TENSORS = save({"x": torch.zeros(1000)})


@pytest.mark.parametrize(
    "body", [b"", b'{"error":"quota"}', b"\x00\xff" * 500, archive()[:-500], TENSORS[:-500]]
)
def test_what_is_no_whole_file_of_tensors_is_refused(
    server: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither size nor digest are known."""
    monkeypatch.setattr(Files, "body", body)
    with pytest.raises(UserError, match=rf"it has {len(body):,} bytes that are not a complete"):
        download(row(f"{server}/body"))
    assert not PART.exists() and not WHOLE.exists()
    WHOLE.write_bytes(body)  # as an earlier version has left it
    with pytest.raises(UserError, match="move it away, and fetch it again"):
        download(row(f"{server}/body"))


@pytest.mark.parametrize("body", [archive(), TENSORS])
def test_a_whole_file_of_tensors_is_taken(
    server: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Files, "body", body)
    assert download(row(f"{server}/body")).path.read_bytes() == body


@pytest.mark.parametrize(("later", "begin"), [('"two"', 0), ('"one"', 300_000)])
def test_the_part_of_another_version_is_begun_anew(
    server: str, later: str, begin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Files, "breaks_at", 300_000)
    monkeypatch.setattr(Files, "tag", '"one"')
    monkeypatch.setattr(resuming, "TRIES", 1)
    with pytest.raises(UserError, match="broke off after 300,000"):
        download(row(f"{server}/x"))
    PART.write_bytes(b"\x80" * 300_000)  # of the first version
    monkeypatch.setattr(Files, "breaks_at", 0)
    monkeypatch.setattr(Files, "tag", later)
    found = download(row(f"{server}/x")).path.read_bytes()
    assert found == b"\x80" * begin + CONTENT[begin:] and Files.told == ["", '"one"']
    assert [path.name for path in PART.parent.iterdir()] == ["x.pth"]


def test_a_page_in_place_of_the_file_is_said(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRIVE", f"{server}/page?id=")
    with pytest.raises(UserError, match=r"Google Drive gave a web page .*/file/d/abc in a browser"):
        download(row("drive:abc"))
    assert Files.asked == [("/page?id=abc", 0)]
    with pytest.raises(UserError, match="the server gave a page"):
        download(row(f"{server}/page"))


def test_what_cannot_be_reached_is_one_line(server: str) -> None:
    with pytest.raises(UserError, match=r"/absent: the server answers 404"):
        download(row(f"{server}/absent"))
    with pytest.raises(UserError, match="cannot be reached"):
        download(row("http://127.0.0.1:9/x"))


def test_the_command_says_what_it_has(
    server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PUBLISHED, "toy", row(f"{server}/x", recipe="small/frozenseg"))
    command.main(["toy"])
    shown = capsys.readouterr().out
    assert f"toy: {WHOLE}" in shown and "licence: none" in shown
    assert f"SHA-256: {DIGEST} (no digest is published; keep this one)" in shown
    command.main(["--list"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in PUBLISHED)
    assert "2,564,550,879 bytes" in listed and "CC-BY-NC" in listed
    for arguments, message in ((["toi"], "did you mean toy"), ([], "nothing to download")):
        with pytest.raises(UserError, match=message):
            command.main(arguments)


def test_load_fetches_only_when_it_is_asked_to(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PUBLISHED, "toy", row(f"{server}/x", recipe="small/frozenseg"))
    with pytest.raises(UserError, match=r"of x are not here; `frozenseg download toy` fetches"):
        frozenseg.load("toy")
    assert not Files.asked
    with pytest.raises(UserError, match=r"weights pretrained_checkpoint/x\.pth: not a checkpoint"):
        frozenseg.load("toy", download=True)  # it was fetched, and is no checkpoint
    assert Files.asked == [("/x", 0)]


def test_the_table_holds_what_models_look_for() -> None:
    names = [entry.saved_as for entry in PUBLISHED.values()]
    assert len(set(names)) == len(names)
    for name, entry in PUBLISHED.items():
        assert find_published(name) is entry and entry.licence
        assert entry.address.startswith(("https://", "hub:", "drive:"))
        assert entry.sha256 == "" or len(entry.sha256) == 64
        assert not entry.recipe or frozenseg.load_config(name)  # by the name itself
