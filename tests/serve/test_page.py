"""The page of the service, in real Chromium, against a real service."""

import base64
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frozenseg.data.rle import encode_masks
from frozenseg.drawing.palette import _distance, _seen
from frozenseg.files import shipped
from tests.serve.browsing import Visit, axe, chromium, hundred_segments, ids_png, png_ids, wait_for
from tests.serve.test_serve import Service

pytestmark = pytest.mark.slow

SCENE = shipped("demo") / "images" / "scene_2.png"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def service(browser, tmp_path_factory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("empty"))
    yield service
    service.process.terminate()
    assert service.process.wait(30) == 0


@pytest.fixture
def visit(browser, service: Service) -> Iterator[Any]:
    """Makes visits, and checks each of them at its end."""
    visits: list[Visit] = []

    def make(**kind: bool) -> Visit:
        visits.append(Visit(browser, service.url, **kind))
        return visits[-1]

    yield make
    for one in visits:
        one.close()


def saved(page: Any, button: str) -> tuple[str, bytes]:
    """Press a button of the downloads; the name and the content of the file."""
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


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


def drawn(page: Any) -> int:
    """How many pixels of the layer are not transparent, after the next frame."""
    return page.evaluate(
        """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
          const canvas = document.getElementById("overlay");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let at = 3; at < data.length; at += 4) count += data[at] > 0;
          done(count);
        })))"""
    )


def test_an_example_is_segmented_shown_and_saved(visit) -> None:
    one = visit()
    page = one.open()
    assert "generated world" in page.text_content("#model-knows")
    with page.expect_response("**/v1/segment") as response:
        page.click(".example:has-text('Scene 2')")
    answer = response.value.json()
    page.wait_for_selector(".with-result")
    assert re.match(r"\d+ segments?: .*sand", page.text_content("#live"))

    # The pointer names what is under it.
    sand = next(s for s in answer["panoptic"]["segments"] if s["name"] == "sand")
    box = page.locator("#overlay").bounding_box()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.9 * box["height"])
    tip = page.text_content("#tip")
    assert tip.startswith("sand · score") and f"({sand['area']:,} px)" in tip
    assert page.locator("tr.hovered").text_content().startswith("sand")

    # The threshold hides segments without asking again.
    before = drawn(page)
    page.fill("#threshold", "90")
    high = [s for s in answer["panoptic"]["segments"] if s["score"] >= 0.9]
    assert page.locator("#segments tbody tr:visible").count() == len(high)
    assert 0 < drawn(page) < before
    assert one.asked("/v1/segment") == 1
    page.fill("#threshold", "25")

    name, png = saved(page, "#download-masks")
    kept = [s["id"] for s in answer["panoptic"]["segments"] if s["score"] >= 0.25]
    ids = png_ids(base64.b64decode(answer["panoptic"]["ids"]))
    assert name == "scene_2_panoptic.png"
    np.testing.assert_array_equal(png_ids(png), np.where(np.isin(ids, kept), ids, 0))
    name, text = saved(page, "#download-coco")
    (annotation,) = json.loads(text)["annotations"]
    assert (name, annotation["file_name"]) == ("scene_2_panoptic.json", "scene_2_panoptic.png")
    assert [s["id"] for s in annotation["segments_info"]] == kept
    name, png = saved(page, "#download-overlay")
    picture = Image.open(SCENE)
    assert name == "scene_2_overlay.png"
    overlay = Image.open(io.BytesIO(png))
    assert overlay.width % picture.width == 0 and overlay.height % picture.height == 0


def test_instances_are_exact_and_cut_out(visit) -> None:
    page = visit().open()
    with page.expect_response("**/v1/segment") as response:
        page.click(".example:has-text('Scene 2')")
    instances = response.value.json()["instances"]
    page.wait_for_selector(".with-result")
    page.click("label[for=view-instances]")
    kept = [one for one in instances if one["score"] >= 0.25]
    assert page.text_content("#segment-count") == f"{len(kept)} of {len(instances)}"
    _, text = saved(page, "#download-coco")
    annotations = json.loads(text)["annotations"]
    assert [a["segmentation"] for a in annotations] == [i["segmentation"] for i in kept]
    assert [a["area"] for a in annotations] == [i["area"] for i in kept]

    name, archive = saved(page, "#download-cutouts")
    assert name == "scene_2_cutouts.zip"
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        assert files.testzip() is None
        assert len(files.namelist()) == len(kept)
        alpha = np.asarray(Image.open(io.BytesIO(files.read(files.namelist()[0]))))[..., 3]
    assert (alpha > 0).sum() == kept[0]["area"]

    # One alone is one picture; Escape shows all again.
    page.click(".name >> nth=0")
    alone = page.text_content("tr.isolated .name")
    name, png = saved(page, "#download-cutouts")
    assert (
        name.endswith(f"{alone.replace(' ', '_')}.png")
        and Image.open(io.BytesIO(png)).mode == "RGBA"
    )
    page.keyboard.press("Escape")
    assert page.locator("tr.isolated").count() == 0
    page.click("label[for=view-semantic]")
    assert page.is_disabled("#threshold")


def test_words_are_chips_and_the_link_keeps_them(visit) -> None:
    one = visit()
    page = one.open()
    page.fill("#word", 'car, truck; sky; "a, b"')
    page.press("#word", "Enter")
    page.type("#word", "road;")
    chips = page.locator(".chip-name").all_text_contents()
    assert chips == ["car, truck", "sky", "a, b", "road"]
    kinds = [
        kind.split()[-1]
        for kind in page.locator(".chip").evaluate_all("e => e.map(x => x.className)")
    ]
    assert kinds == ["thing", "stuff", "thing", "stuff"]
    page.click(".chip-kind >> nth=0")
    page.fill("#word", "Truck")
    page.press("#word", "Enter")
    assert page.locator(".chip").count() == 4 and "already there" in page.text_content("#live")
    page.click("[aria-label='Remove road']")
    page.set_input_files("#file", SCENE)
    page.wait_for_selector(".with-picture")
    wait_for(page, "location.hash.includes('words=')")
    assert len(page.url) < 200 and "stuff=0%2C1" in page.url

    page.click("#save-words")
    page.click("#clear-words")
    assert page.locator(".chip").count() == 0
    page.select_option("#lists", "COCO")
    assert page.locator(".chip").count() == 133
    page.select_option("#lists", "My words")
    wait_for(page, "location.hash.includes('truck')")
    page.reload()
    assert page.locator(".chip-name").all_text_contents() == ["car, truck", "sky", "a, b"]
    page.evaluate(
        """() => {
          const { fetch } = window;
          window.fetch = (path, options) => {
            window.sent = [...options.body].filter(([, value]) => typeof value === "string");
            return fetch(path, options);
          };
        }"""
    )
    page.set_input_files("#file", SCENE)
    page.click("#run")
    page.wait_for_selector(".with-result")
    sent = dict(page.evaluate("window.sent"))
    assert json.loads(sent["vocabulary"]) == [["car", "truck"], ["sky"], ["a, b"]]
    assert json.loads(sent["things"]) == [["a, b"]]
    assert (sent["threshold"], sent["format"]) == ("0", "map")


def test_pictures_are_dropped_pasted_and_taken(visit) -> None:
    page = visit().open()
    put = """([kind, type]) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(atob(window.scene), (c) => c.charCodeAt(0))],
        `${kind}.png`, { type: "image/png" }));
      const given = { bubbles: true, cancelable: true };
      document.body.dispatchEvent(kind === "paste"
        ? new ClipboardEvent(kind, { clipboardData: data, ...given })
        : new DragEvent(kind, { dataTransfer: data, ...given }));
    }"""
    page.evaluate(
        "scene => { window.scene = scene }", base64.b64encode(SCENE.read_bytes()).decode()
    )
    for kind in ("drop", "paste"):
        page.evaluate(put, [kind, "image/png"])
        wait_for(page, f"document.getElementById('live').textContent.startsWith('{kind}.png')")
    page.click("[data-shoot]:visible")
    wait_for(page, "document.getElementById('camera-view').videoWidth > 0")
    page.click("#camera-shoot")
    wait_for(page, "document.getElementById('live').textContent.startsWith('camera.png')")
    assert page.evaluate("document.getElementById('camera-view').srcObject") is None


def test_errors_are_told_in_one_line(visit) -> None:
    page = visit().open()
    page.click("#run")
    assert page.text_content("#error-line") == "Choose a picture first."
    page.set_input_files(
        "#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    wait_for(page, "document.getElementById('error-line').textContent.startsWith('a.png is not')")
    # This one the browser shows and the service refuses.
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>'
    page.set_input_files("#file", {"name": "a.svg", "mimeType": "image/svg+xml", "buffer": drawing})
    page.wait_for_selector(".with-picture")
    page.fill("#word", "sky")
    with page.expect_response("**/v1/segment") as response:
        page.click("#run")
    page.wait_for_selector("#error:visible")
    assert response.value.status in (415, 422)
    assert page.text_content("#error-line") == response.value.json()["error"]
    with_answer(page, {"error": "the queue is full"}, 503, **{"Retry-After": "3"})
    page.click("#run")
    page.wait_for_selector("#retry:visible")
    assert page.text_content("#error-line") == "the queue is full Try again in 3 s."
    page.unroute("**/v1/segment")
    page.route("**/v1/segment", lambda route: route.abort())
    page.click("#retry")
    wait_for(page, "document.getElementById('error-line').textContent.includes('does not answer')")


def test_a_token_is_asked_for_and_sent(visit) -> None:
    one = visit()
    page = one.page
    given: list[str | None] = []

    def guarded(route: Any) -> None:
        given.append(route.request.headers.get("authorization"))
        if given[-1] == "Bearer right":
            return route.continue_()
        route.fulfill(status=401, body='{"error": "this service needs a token"}')

    page.route("**/v1/**", guarded)
    page.goto(one.url)
    for token in ("wrong", "right"):
        page.fill("#token-text", token)
        page.press("#token-text", "Enter")
        wait_for(page, f"!document.getElementById('token').open || {int(token == 'wrong')}")
    page.wait_for_selector("#run:enabled")
    assert given == [None, "Bearer wrong", "Bearer right"]
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0
    assert "right" not in page.url


def test_a_hundred_segments_are_one_picture(visit) -> None:
    one = visit()
    one.page.add_init_script(
        """window.paints = 0;
        const put = CanvasRenderingContext2D.prototype.putImageData;
        CanvasRenderingContext2D.prototype.putImageData = function (...given) {
          window.paints++;
          return put.apply(this, given);
        };"""
    )
    page = one.open()
    show_hundred(page)
    assert page.text_content("#note") == "Made up for a test."
    assert page.text_content("#segment-count") == "76 of 100"  # scores 0.25 to 1.00
    assert page.is_disabled("#view-semantic") and page.is_disabled("#view-instances")
    assert page.locator("canvas").count() == 1
    assert one.asked("/v1/segment") == 1
    # However often a slider moves within a frame, the layer is painted once.
    drawn(page)
    paints = page.evaluate(
        """() => new Promise((done) => {
          window.paints = 0;
          const slider = document.getElementById("opacity");
          for (let value = 0; value < 50; value++) {
            slider.value = value;
            slider.dispatchEvent(new Event("input"));
          }
          requestAnimationFrame(() => requestAnimationFrame(() => done(window.paints)));
        })"""
    )
    assert paints == 1
    box = page.locator("#overlay").bounding_box()
    for row, column in ((3, 0), (5, 7), (9, 9)):
        x, y = (column + 0.5) / 10 * box["width"], (row + 0.5) / 10 * box["height"]
        page.mouse.move(box["x"] + x, box["y"] + y)
        score = (10 * row + column + 1) / 100
        assert f"score {score:.2f}" in page.text_content("#tip")
    # Sorted, hidden, recoloured.
    page.click("[data-sort=score] button")
    assert page.locator("#segments tbody tr:visible .number").first.text_content() == "1.00"
    shown = drawn(page)
    page.click("tbody .eye >> nth=0")
    assert drawn(page) < shown
    page.locator("tbody input[type=color]").nth(1).fill("#123456")
    page.fill("#opacity", "100")
    assert drawn(page) > 0
    colours = page.evaluate(
        """() => {
          const canvas = document.getElementById("overlay");
          const place = [0.85 * canvas.width, 0.97 * canvas.height].map(Math.round);
          return [...canvas.getContext("2d").getImageData(...place, 1, 1).data];
        }"""
    )
    assert colours == [0x12, 0x34, 0x56, 255]


def test_masks_and_colours_agree_with_python(visit) -> None:
    page = visit().open()
    generator = np.random.default_rng(0)
    ids = np.kron(generator.integers(0, 2**24, (9, 7)), np.ones((5, 3), dtype=np.int64))
    png = base64.b64encode(ids_png(ids)).decode()
    mask = generator.random((40, 30)) < 0.5
    back, code, apart = page.evaluate(
        """async ([png, mask, pairs]) => {
          const { fromBase64 } = await import("/page/bytes.js");
          const { readIds, writeIds } = await import("/page/png.js");
          const { encode } = await import("/page/rle.js");
          const { distance } = await import("/page/colours.js");
          const { width, height, ids } = await readIds(fromBase64(png));
          const bytes = new Uint8Array(await (await writeIds(width, height, ids)).arrayBuffer());
          const code = encode(Uint8Array.from(mask.flat()), mask[0].length, mask.length, 1);
          return [[...bytes], code, pairs.map(([one, other]) => distance(one, other))];
        }""",
        [png, mask.astype(int).tolist(), COLOURS.tolist()],
    )
    np.testing.assert_array_equal(png_ids(bytes(back)), ids)
    assert code == encode_masks(mask[None])[0]
    expected = [float(_distance(_seen(a[None]), _seen(b[None]))[0]) for a, b in COLOURS]
    # OpenCV converts by tables, so it differs by some tenths of a percent.
    np.testing.assert_allclose(apart, expected, rtol=0.01)


COLOURS = np.random.default_rng(1).integers(0, 256, (20, 2, 3)).astype(np.uint8)


def test_colours_are_told_apart_by_all(visit) -> None:
    page = visit().open()
    least = page.evaluate(
        """async () => {
          const { classColours, distance } = await import("/page/colours.js");
          const grounds = Array.from({ length: 12 }, (_, at) => [20 * at, 120, 250 - 20 * at]);
          const colours = classColours(grounds);
          return Math.min(...colours.flatMap((one, at) => {
            return colours.slice(at + 1).map((other) => distance(one, other));
          }));
        }"""
    )
    # Steps of 2.3 are just noticeable in CIELAB.
    assert least > 12


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("phone", [False, True])
def test_everyone_can_use_it(visit, phone: bool, dark: bool) -> None:
    """On a telephone nothing is cut off, in dark rooms the page is dark, and axe finds no fault."""
    check = axe()
    one = visit(phone=phone, dark=dark)
    page = one.open()
    faults = {"empty": serious(page, check)}
    light = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert (max(light) < 60) == dark
    show_hundred(page)
    page.click("#run")
    page.wait_for_selector("#busy", state="hidden")
    faults["result"] = serious(page, check)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    one.open("/docs").wait_for_selector(".operation")
    faults["docs"] = serious(page, check)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert not any(faults.values()), faults


def serious(page: Any, check: str) -> list[str]:
    """The serious faults that axe finds on a page."""
    page.evaluate(check)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        f"{fault['id']}: {fault['nodes'][0]['target']} {fault['nodes'][0]['failureSummary']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]


def test_the_keyboard_reaches_everything(visit) -> None:
    page = visit().open()
    show_hundred(page)
    page.focus("#segments-box")
    page.keyboard.press("Tab")
    for _ in range(7):
        page.keyboard.press("Tab")
    reached = page.evaluate("document.activeElement.closest('tbody') !== null")
    assert reached
    page.focus("tbody tr:visible .name >> nth=0")
    assert page.locator("tr.hovered").count() == 1
    page.keyboard.press("Enter")
    assert page.text_content("#live").startswith("Only kind")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.check("#switch-compare")
    page.focus("#compare")
    page.keyboard.press("Home")
    assert (
        page.evaluate("document.getElementById('overlay').style.clipPath")
        == "inset(0px 0px 0px 0%)"
    )
