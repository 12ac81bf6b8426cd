"""The page in the hands of people: words, pictures, errors, a token, telephone and keyboard."""

import base64
import json
from typing import Any

import pytest

from frozenseg.files import shipped
from tests.serve.browsing import axe, show_hundred, wait_for, with_answer

pytestmark = pytest.mark.slow

SCENE = shipped("demo") / "images" / "scene_2.png"


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
    with_answer(page, {"error": "the queue is full; try again"}, 503, **{"Retry-After": "3"})
    page.click("#run")
    page.wait_for_selector("#retry:visible")
    assert page.text_content("#error-line") == "the queue is full; try again (in 3 s)"
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
    page.click("[data-shoot]:visible")
    page.wait_for_selector("#camera[open], #error:not([hidden])")
    faults["camera"] = serious(page, check)
    page.keyboard.press("Escape")
    page.click("#run")
    page.wait_for_selector("#error:visible")
    faults["error"] = serious(page, check)
    page.click(".example:has-text('Scene 2')")
    page.wait_for_selector("#busy:visible")
    faults["busy"] = serious(page, check)
    page.wait_for_selector(".with-result")
    for view in ("semantic", "instances", "panoptic"):
        page.click(f"label[for=view-{view}]")
        faults[view] = serious(page, check)
    page.check("#switch-compare")
    page.click("tbody tr:visible .name >> nth=0")
    faults["one alone, compared"] = serious(page, check)
    show_hundred(page)
    page.click("#run")
    page.wait_for_selector("#busy", state="hidden")
    faults["a hundred segments"] = serious(page, check)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    page.evaluate("document.getElementById('token').showModal()")
    page.evaluate("document.getElementById('token-again').hidden = false")
    faults["token"] = serious(page, check)
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
