"""The page of the service, in real Chromium, against a real service."""

import base64
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frozenseg.data.rle import encode_masks
from frozenseg.drawing.palette import _distance, _seen
from frozenseg.files import shipped
from tests.serve.browsing import ids_png, png_ids, show_hundred

pytestmark = pytest.mark.slow

SCENE = shipped("demo") / "images" / "scene_2.png"


def saved(page: Any, button: str) -> tuple[str, bytes]:
    """Press a button of the downloads; the name and the content of the file."""
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


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
    page.click("tbody tr:visible .name >> nth=0")
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
    # OpenCV interpolates CIELAB between the values of a coarse grid, which is some tenths off.
    np.testing.assert_allclose(apart, expected, atol=0.5)


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
