"""The HTTP interface, with a process that answers without a model."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

pytest.importorskip("fastapi", reason="pip install 'frozenseg[serve]'")
pytest.importorskip("httpx", reason="pip install 'frozenseg[serve]'")

from fastapi.testclient import TestClient

from frozenseg.serve.app import make_app
from frozenseg.serve.jobs import ModelSource
from frozenseg.serve.limits import Limits
from frozenseg.serve.metrics import Metrics
from frozenseg.serve.pool import Pool
from frozenseg.serve.words import read_vocabulary
from tests.serve import echo

PROTECTED = ("/metrics", "/v1/models")
LIMITS = Limits(upload=2**20, names=50, letters=20, images=3, batch=2)


def client_of(model: str = "echo", limits: Limits = LIMITS, **settings) -> TestClient:
    pool = Pool(ModelSource(model), [None], limits, Metrics(), work=echo.work)
    return TestClient(make_app(pool, **settings), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def http() -> Iterator[TestClient]:
    with client_of() as http:
        wait_until_ready(http)
        yield http


def wait_until_ready(http: TestClient) -> None:
    for _ in range(2000):
        if http.get("/readyz").status_code == 200:
            return
        threading.Event().wait(0.02)
    raise AssertionError("the pool is not ready")


def post(http: TestClient, image: bytes = b"pixels", vocabulary: str = "car; road", **fields):
    return http.post(
        "/v1/segment", files={"image": image}, data={"vocabulary": vocabulary, **fields}
    )


@pytest.mark.parametrize(
    ("vocabulary", "names"),
    [
        ("car, truck; road", [["car", "truck"], ["road"]]),
        ('["car, truck", "road"]', [["car", "truck"], ["road"]]),
        ('[["salt, sea", "truck"], ["road"]]', [["salt, sea", "truck"], ["road"]]),
        ('["/etc/hosts.txt"]', [["/etc/hosts.txt"]]),
    ],
)
def test_words_are_names_and_never_files(http, vocabulary: str, names) -> None:
    answer = post(http, vocabulary=vocabulary)
    assert answer.status_code == 200, answer.text
    assert answer.json()["names"] == names


@pytest.mark.parametrize("path", ["/etc/hosts.txt", "~/key.json", "names.csv"])
def test_text_that_looks_like_a_file_is_refused_whether_it_exists_or_not(http, path) -> None:
    for fields in ({"vocabulary": path}, {"things": path}):
        answer = post(http, **fields)
        assert answer.status_code == 422
        assert "no such file" not in answer.text and "localhost" not in answer.text


def test_things_are_taken_as_given(http) -> None:
    assert post(http, things="road").json()["things"] == [False, True]
    assert post(http, things='[["road"]]').json()["things"] == [False, True]
    for nothing in ("[]", "", " "):
        assert post(http, things=nothing).json()["things"] == [False, False]
    fields = {"vocabulary": "car; road", "things": ""}
    (entry,) = http.post("/v1/segment/batch", files={"images": b"a"}, data=fields).json()
    assert entry["things"] == [False, False]


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"vocabulary": ""}, "vocabulary"),
        ({"vocabulary": ";;"}, "vocabulary"),
        ({"vocabulary": "[1, 2]"}, "JSON list"),
        ({"vocabulary": '{"names": 1}'}, "JSON list"),
        ({"vocabulary": "[" * 900}, "begins like JSON"),
        ({"vocabulary": '["car"'}, "begins like JSON"),
        ({"vocabulary": "x" * 100_000}, "too many"),
        ({"vocabulary": "; ".join(f"name {n}" for n in range(60))}, "60 names"),
        ({"vocabulary": "a" * 21}, "20 letters"),
        ({"things": "boat"}, "boat"),
        ({"threshold": "2"}, "threshold"),
        ({"threshold": ""}, "threshold: empty"),
        ({"tasks": ""}, "tasks: empty"),
        ({"format": ""}, "format: empty"),
        ({"threshold": "nan"}, "threshold"),
        ({"threshold": "high"}, "threshold"),
        ({"tasks": "panoptic,all"}, "'all'"),
        ({"format": "exe"}, "format"),
    ],
)
def test_wrong_fields_are_named(http, fields: dict[str, str], part: str) -> None:
    answer = post(http, **fields)
    assert answer.status_code == 422, answer.text
    assert part in answer.json()["error"]


@pytest.mark.parametrize(
    ("address", "field"), [("/v1/segment", "image"), ("/v1/segment/batch", "images")]
)
def test_a_field_that_is_sent_twice_is_refused(http, address: str, field: str) -> None:
    fields = {"vocabulary": "car", "things": "car", "threshold": "0.5", "tasks": "semantic"}
    for name, value in (fields | {"format": "json"}).items():
        twice = {"vocabulary": "car", name: [value, value]}
        answer = http.post(address, files={field: b"pixels"}, data=twice)
        assert answer.status_code == 422, name
        assert answer.json() == {"error": f"{name}: sent 2 times; send it once (see /docs)"}


@pytest.mark.parametrize("address", ["/v1/segment", "/v1/segment/batch"])
def test_fields_that_would_have_no_effect_are_refused(http, address: str) -> None:
    files = {"images" if "batch" in address else "image": b"pixels"}
    data = {"vocabulary": "car", "treshold": "0.9"}
    answer = http.post(address, files=files, data=data)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error.startswith("treshold: no such field; did you mean threshold"), error
    answer = http.post(f"{address}?threshold=0.9", files=files, data={"vocabulary": "car"})
    assert answer.status_code == 422
    expected = "threshold: stands in the address; send it as a field of the form"
    assert answer.json() == {"error": expected}
    answer = http.post(f"{address}?key=0.9", files=files, data={"vocabulary": "car"})
    assert answer.status_code == 200  # others add such things


def test_only_a_batch_takes_several_images(http) -> None:
    for address, field, status in [
        ("/v1/segment", "image", 422),
        ("/v1/segment/batch", "images", 200),
    ]:
        answer = http.post(address, files=[(field, b"a")] * 2, data={"vocabulary": "car"})
        assert answer.status_code == status
        assert status == 200 or answer.json()["error"].startswith("image: sent 2 times")


def test_a_request_without_an_image_or_a_form_is_refused(http) -> None:
    assert http.post("/v1/segment", data={"vocabulary": "car"}).status_code == 422
    assert http.post("/v1/segment", content=b"{}").status_code == 422
    texts = {"images": ["a", "b"], "vocabulary": "car"}
    answer = http.post("/v1/segment/batch", data=texts)
    assert answer.status_code == 422 and answer.json()["error"].startswith("images: ")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    answer = http.post("/v1/segment", content=b"--y\r\nnothing", headers=broken)
    assert answer.status_code in (400, 422) and "error" in answer.json()


def test_too_large_a_request_is_refused_by_its_length_and_by_what_comes(http) -> None:
    assert post(http, image=b"x" * LIMITS.upload).status_code == 413

    def chunks() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield b"x" * (LIMITS.upload // 20)

    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = http.post("/v1/segment", content=chunks(), headers=kind)
    assert answer.status_code == 413
    assert answer.json() == {"error": "the request has more than 1 MB; send less"}


def test_nothing_of_a_request_is_written_to_disk(http, monkeypatch) -> None:
    def refuse(*_, **__) -> None:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", refuse)
    assert post(http, image=b"x" * (LIMITS.upload - 1000)).status_code == 200


def test_a_batch_answers_in_order(http) -> None:
    files = [("images", bytes([65 + n])) for n in range(3)]
    answer = http.post("/v1/segment/batch", files=files, data={"vocabulary": "car"})
    assert [entry["image"] for entry in answer.json()] == ["A", "B", "C"]
    files += files
    answer = http.post("/v1/segment/batch", files=files, data={"vocabulary": "car"})
    assert answer.status_code == 422 and "at most 3" in answer.json()["error"]


def test_a_batch_that_never_finds_room_is_not_asked_to_try_again() -> None:
    with client_of(limits=replace(LIMITS, queue=2)) as http:
        wait_until_ready(http)
        assert http.get("/v1/models").json()["models"][0]["limits"]["images"] == 2
        files = [("images", b"a")] * 3
        answer = http.post("/v1/segment/batch", files=files, data={"vocabulary": "car"})
        assert answer.status_code == 422 and "at most 2" in answer.json()["error"]


def test_too_many_requests_are_refused_like_a_full_queue_and_probes_answered(monkeypatch) -> None:
    begun, on = threading.Event(), threading.Event()

    def slow(*arguments):
        begun.set()
        assert on.wait(20)
        return read_vocabulary(*arguments)

    monkeypatch.setattr("frozenseg.serve.app.read_vocabulary", slow)
    with client_of(limits=replace(LIMITS, requests=1)) as http, ThreadPoolExecutor(1) as threads:
        wait_until_ready(http)
        first = threads.submit(post, http)
        assert begun.wait(20)
        refused = post(http)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert "try again soon" in refused.json()["error"]
        assert http.get("/healthz").status_code == 200
        on.set()
        assert first.result().status_code == 200
        assert post(http).status_code == 200


@pytest.mark.parametrize(
    ("pause", "limits"), [(60, {"silence": 0.2}), (0.05, {"silence": 60, "arrival": 0.4})]
)
def test_a_request_that_stops_or_trickles_gives_its_place_back(pause: float, limits) -> None:
    sent: list[dict] = []

    async def receive() -> dict:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": b"\n", "more_body": True}

    async def send(message) -> None:
        sent.append(message)

    with client_of(limits=replace(LIMITS, requests=1, **limits)) as http:
        wait_until_ready(http)
        head = [(b"content-type", b"multipart/form-data; boundary=x")]
        scope = {"type": "http", "method": "POST", "path": "/v1/segment", "headers": head}
        asyncio.run(asyncio.wait_for(http.app(scope | {"query_string": b""}, receive, send), 10))
        assert sent[0]["status"] == 408 and (b"connection", b"close") in sent[0]["headers"]
        assert "too slowly" in json.loads(sent[1]["body"])["error"]
        assert post(http).status_code == 200


def test_requests_at_once_do_not_see_each_other(http) -> None:
    outcomes: dict[int, list] = {}

    def ask(number: int) -> None:
        answers = [post(http, image=b"%d" % number, vocabulary=f"w{number % 3}") for _ in range(5)]
        outcomes[number] = [(answer.json()["image"], answer.json()["names"]) for answer in answers]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answers in outcomes.items():
        assert answers == [(str(number), [[f"w{number % 3}"]])] * 5


def test_every_answer_has_its_headers_and_errors_their_form(http) -> None:
    for answer, status in [
        (http.get("/healthz"), 200),
        (http.get("/nowhere"), 404),
        (http.get("/page/../app.py"), 404),
        (http.get("/page/%2e%2e/app.py"), 404),
        (http.get("/v1/segment"), 405),
        (post(http, image=b"x" * LIMITS.upload), 413),
    ]:
        assert answer.status_code == status, answer.url
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert ("allow" in answer.headers) == (status == 405)
        assert status == 200 or set(answer.json()) == {"error"}


def test_head_is_answered_like_get_without_a_body() -> None:
    with client_of(token="a-long-secret-word") as http:
        wait_until_ready(http)
        paths = [route.path for route in http.app.routes if "GET" in route.methods]
        assert {"/", "/docs", "/healthz", "/readyz", "/metrics", "/page/main.js"} <= set(paths)
        for path in paths:
            get, head = http.get(path), http.head(path)
            assert head.status_code == get.status_code == (401 if path in PROTECTED else 200), path
            assert head.headers["content-type"] == get.headers["content-type"]
            assert head.content == b""
        refused = http.post("/healthz")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        asked = http.head("/v1/segment", headers={"Authorization": "Bearer a-long-secret-word"})
        assert (asked.status_code, asked.headers["allow"]) == (405, "POST")


def test_head_at_the_probe_says_that_the_model_is_not_ready() -> None:
    with client_of("broken") as http:
        assert http.head("/readyz").status_code == 503


def test_a_fault_of_the_service_is_stamped_and_counted_too(http, monkeypatch) -> None:
    def broken() -> None:
        raise RuntimeError("a secret of the machine")

    monkeypatch.setattr("frozenseg.serve.app.class_lists", broken)
    answer = http.get("/v1/models")
    line = "an internal error; the service's log has the details"
    assert (answer.status_code, answer.json()) == (500, {"error": line})
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert 'requests_total{path="/v1/models",status="500"} 1.0' in http.get("/metrics").text


def test_metrics_count_requests_and_batches(http) -> None:
    def counts() -> dict[str, float]:
        lines = http.get("/metrics").text.splitlines()
        return {line.split()[0]: float(line.split()[-1]) for line in lines if line[0] != "#"}

    name = 'frozenseg_requests_total{path="/v1/segment",status="200"}'
    before = counts()
    post(http)
    http.get("/a/path/that/nobody/counts/apart")
    after = counts()
    assert after[name] == before.get(name, 0) + 1
    assert after["frozenseg_batch_images_count"] == before["frozenseg_batch_images_count"] + 1
    assert after["frozenseg_queue_images"] == 0
    assert not any("nobody" in key for key in after)


def test_the_interface_describes_itself(http) -> None:
    text = http.get("/openapi.json").text
    schema = json.loads(text)
    assert set(schema["paths"]) == {
        *("/healthz", "/readyz", "/metrics", "/v1/models", "/v1/segment", "/v1/segment/batch"),
    }
    assert "car, truck; road; sky" in text
    assert {"200", "401", "413", "422", "503"} <= set(
        schema["paths"]["/v1/segment"]["post"]["responses"]
    )


def test_a_token_is_asked_for_but_of_the_page_and_the_probes() -> None:
    with client_of(token="a-long-secret-word") as http:
        wait_until_ready(http)
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "a-long-secret-word"},
            {"Authorization": "Basic a-long-secret-word"},
        ):
            refused = http.post("/v1/segment", headers=headers)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
            assert http.get("/metrics", headers=headers).status_code == 401
        assert http.get("/healthz").status_code == 200
        for scheme in ("Bearer", "bearer", "BEARER"):
            http.headers["Authorization"] = f"{scheme} a-long-secret-word"
            assert post(http).status_code == 200, scheme


def test_other_sites_may_call_only_where_named() -> None:
    with client_of(origins=("https://a.example",)) as http:
        for origin, allowed in (("https://a.example", True), ("https://b.example", False)):
            answer = http.get("/healthz", headers={"Origin": origin})
            assert ("access-control-allow-origin" in answer.headers) == allowed
            browser = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            status = http.post("/v1/segment", headers=browser).status_code
            assert status == (422 if allowed else 403)


def test_a_model_that_is_not_ready_is_said_to_be(monkeypatch) -> None:
    with client_of("broken") as http:
        answer = http.get("/readyz")
        assert answer.status_code == 503 and "error" in answer.json()
        assert post(http).status_code == 503


def test_named_sites_may_call_with_a_token() -> None:
    """Their preflights carry none, and their pages can read why a request is refused."""
    ours, foreign = {"Origin": "https://a.example"}, {"Origin": "https://b.example"}
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    large = {"Content-Length": str(2 * LIMITS.upload)}
    with client_of(token="a-long-secret-word", origins=("https://a.example",)) as http:
        preflight = http.options("/v1/segment", headers=ours | asks)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        assert preflight.headers["x-content-type-options"] == "nosniff"
        assert http.options("/v1/segment", headers=foreign | asks).status_code == 400
        token = {"Authorization": "Bearer a-long-secret-word"}
        for answer, status in [
            (http.get("/v1/models", headers=ours), 401),
            (http.post("/v1/segment", headers=ours), 401),
            (http.post("/v1/segment", headers=ours | token | large), 413),
            (http.options("/v1/segment", headers=ours), 401),
        ]:
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://a.example"
        refused = http.post("/v1/segment", headers=foreign)
        assert refused.status_code == 401
        assert "access-control-allow-origin" not in refused.headers
        counted = http.get("/metrics", headers=token).text
        assert 'frozenseg_requests_total{path="/v1/segment",status="200"} 1.0' in counted


def test_words_are_not_logged(http, caplog) -> None:
    assert post(http, vocabulary="privy, covert, hidden").status_code == 200
    assert post(http, vocabulary="clandestine|secret; road").status_code == 200
    assert not caplog.records


def test_the_service_is_alive_while_it_reads_long_words(http, monkeypatch) -> None:
    alive = threading.Event()

    def slow(*arguments):
        assert alive.wait(20)
        return read_vocabulary(*arguments)

    monkeypatch.setattr("frozenseg.serve.app.read_vocabulary", slow)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(post, http)
        assert http.get("/healthz").status_code == 200
        alive.set()
        assert answer.result().status_code == 200


def test_a_server_that_is_made_to_end_at_once_closes_the_pool() -> None:
    async def made_to_end() -> None:
        pool = Pool(ModelSource("echo"), [None], LIMITS, Metrics(), work=echo.work)
        app = make_app(pool)
        with pytest.raises(asyncio.CancelledError):
            async with app.router.lifespan_context(app):
                raise asyncio.CancelledError
        assert all(task.done() for task in pool._tasks)

    asyncio.run(made_to_end())
