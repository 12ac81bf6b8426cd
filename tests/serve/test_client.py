"""The client, beside a server that answers whatever a test says."""

import base64
import http.server
import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import frozenseg
from frozenseg.data.results import png_bytes
from frozenseg.errors import UserError
from frozenseg.serve.answers import answer_of
from frozenseg.serve.jobs import TASKS
from frozenseg.serve.limits import Limits
from frozenseg.serve.words import read_vocabulary
from frozenseg.structures import PanopticResult
from frozenseg.text.vocabulary import Vocabulary
from tests.results.cases import SIZE, WORDS, made

pytest.importorskip("httpx", reason="pip install 'frozenseg[serve]'")


class Server(http.server.ThreadingHTTPServer):
    """Answers every request with `status` and `body`."""

    status, body, token = 200, b"", None


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.token = self.headers["Authorization"]
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def caller(server: Server) -> Iterator[frozenseg.Client]:
    with frozenseg.Client(f"http://127.0.0.1:{server.server_port}") as opened:
        yield opened


def png_of_zeros(height: int, width: int) -> str:
    return base64.b64encode(png_bytes(Image.new("RGB", (width, height)))).decode()


def picture(folder: Path, name: str = "street.png") -> Path:
    Image.new("RGB", SIZE[::-1]).save(folder / name)
    return folder / name


def test_results_are_saved_under_the_names_of_their_images(
    tmp_path: Path, server: Server, caller: frozenseg.Client
) -> None:
    server.body = answer_of(made(), TASKS, "map", "tiny", 0.5).body
    for name in ("one.png", "other.png"):
        result = caller(picture(tmp_path, name), WORDS)
        assert (result.file_name, result.seconds) == (str(tmp_path / name), 0.5)
        result.save(tmp_path / "out")
    drawn = sorted(path.name for path in (tmp_path / "out").glob("*_drawn.png"))
    assert drawn == ["one_drawn.png", "other_drawn.png"]


def test_segments_without_a_score_have_none(
    tmp_path: Path, server: Server, caller: frozenseg.Client
) -> None:
    found = made().panoptic
    unscored = PanopticResult(found.ids, [replace(s, score=math.nan) for s in found.segments])
    server.body = answer_of(made(panoptic=unscored), TASKS, "map", "tiny", 0.5).body
    result = caller(picture(tmp_path), WORDS).filter(threshold=0.5)
    assert [math.isnan(segment.score) for segment in result.panoptic.segments] == [True] * 3


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"detail": "Not Found"}),
        (200, {"semantic": None, "instances": None, "note": None, "seconds": 1}),
        (200, []),
        (200, None),
        (404, {"detail": "Not Found"}),
        (403, {"message": "Forbidden"}),
        (500, {"error": {"code": 1}}),
        (500, ["error"]),
        (500, "error"),
    ],
)
def test_answers_of_other_programs_are_said_to_be_that(
    tmp_path: Path, server: Server, caller: frozenseg.Client, status: int, body: object
) -> None:
    server.status, server.body = status, json.dumps(body).encode()
    with pytest.raises(
        UserError, match=rf"127.0.0.1:\d+/?: status {status}, not an answer of frozenseg"
    ):
        caller(picture(tmp_path), WORDS)


@pytest.mark.parametrize(
    "damage",
    [
        lambda answer: answer["panoptic"].pop("segments"),
        lambda answer: answer["panoptic"].update(ids="AAAA"),
        lambda answer: answer["panoptic"].update(ids=png_of_zeros(9, 9)),
        lambda answer: answer["panoptic"]["segments"][0].update(class_id=99),
        lambda answer: answer["panoptic"]["segments"][0].update(box=[1]),
        lambda answer: answer["panoptic"].update(segments=["car"]),
        lambda answer: answer["semantic"].update(ids=png_of_zeros(SIZE[0] + 1, SIZE[1])),
        lambda answer: answer["instances"][0]["segmentation"].update(counts="~"),
        lambda answer: answer["instances"][0]["segmentation"].update(size=[2, 2]),
        lambda answer: answer["instances"][0].update(class_id=-1),
        lambda answer: answer.update(instances=7),
    ],
)
def test_content_that_does_not_fit_the_image_or_the_classes_is_no_answer(
    tmp_path: Path, server: Server, caller: frozenseg.Client, damage: Callable[[dict], object]
) -> None:
    answer = json.loads(answer_of(made(), TASKS, "map", "tiny", 0.5).body)
    damage(answer)
    server.body = json.dumps(answer).encode()
    with pytest.raises(UserError, match="status 200, not an answer of frozenseg"):
        caller(picture(tmp_path), WORDS)


def test_fields_of_a_newer_service_are_ignored(
    tmp_path: Path, server: Server, caller: frozenseg.Client
) -> None:
    answer = json.loads(answer_of(made(), TASKS, "map", "tiny", 0.5).body)
    answer["panoptic"]["segments"][0]["depth"] = 3.5
    server.body = json.dumps({**answer, "camera": "left"}).encode()
    assert caller(picture(tmp_path), WORDS).panoptic.segments == made().panoptic.segments


def test_what_is_no_json_is_no_answer_and_a_refusal_is_told(
    tmp_path: Path, server: Server, caller: frozenseg.Client
) -> None:
    server.status, server.body = 502, b"<html>Bad Gateway</html>"
    with pytest.raises(UserError, match="status 502, not an answer of frozenseg"):
        caller(picture(tmp_path), WORDS)
    server.status, server.body = 422, b'{"error": "the image is empty"}'
    with pytest.raises(UserError, match=r"the image is empty \(status 422\)"):
        caller(picture(tmp_path), WORDS)


def test_as_many_names_in_any_script_as_a_service_takes_are_sent(
    tmp_path: Path, caller: frozenseg.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Vocabulary.parse([["\u5b57" * 90 + str(number)] for number in range(Limits().names)])
    read = []

    def send(fields: dict[str, str], _: bytes) -> dict:
        read.append(read_vocabulary(fields["vocabulary"], fields["things"], Limits()))
        return json.loads(answer_of(made(), TASKS, "map", "tiny", 0.5).body)

    monkeypatch.setattr(caller, "_send", send)
    caller(picture(tmp_path), words)
    assert read == [words]


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port"])
def test_what_is_no_address_is_named(url: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(url)}: not a valid address .*write it like"):
        frozenseg.Client(url)


@pytest.mark.parametrize("url", ["127.0.0.1:1", "http://127.0.0.1:1", "http://a..b", "ftp://a"])
def test_what_cannot_be_reached_is_named(url: str, tmp_path: Path) -> None:
    with (
        frozenseg.Client(url) as client,
        pytest.raises(UserError, match=f"^{url}/?: no answer .*; is the service running"),
    ):
        client(picture(tmp_path), WORDS)


def test_a_token_is_sent_without_the_end_of_its_file(tmp_path: Path, server: Server) -> None:
    url = f"http://127.0.0.1:{server.server_port}"
    server.body = answer_of(made(), TASKS, "map", "tiny", 0.5).body
    with frozenseg.Client(url, token="a-long-secret-word\n") as client:
        client(picture(tmp_path), WORDS)
    assert server.token == "Bearer a-long-secret-word"
    for token in ("t\u00f6ken", "two\nlines", ""):
        with pytest.raises(UserError, match="^the token is not one line of ASCII") as told:
            frozenseg.Client(url, token=token)
        assert not token or token not in str(told.value)


def test_a_closed_client_says_so(tmp_path: Path, caller: frozenseg.Client) -> None:
    caller.close()
    with pytest.raises(UserError, match="this client is closed; create a new one"):
        caller(picture(tmp_path), WORDS)
