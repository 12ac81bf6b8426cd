"""The page that runs an exported model in a browser, in Chromium and over a plain file server."""

import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from PIL import Image

import frozenseg
from frozenseg.commands.export import main
from frozenseg.text.names import singular
from frozenseg.text.vocabulary import Vocabulary
from tests.export.test_files import needs_onnx
from tests.serve.browsing import Visit, chromium

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path("demo/export/browser")
RUNTIME = Path(os.environ.get("FROZENSEG_ONNX_WEB", ROOT / PAGE / "node_modules"))
needs_runtime = pytest.mark.skipif(
    not (RUNTIME / "onnxruntime-web").is_dir(),
    reason="needs onnxruntime-web: npm install --prefix demo/export/browser, or elsewhere, and set "
    "FROZENSEG_ONNX_WEB to its node_modules",
)
THINGS, STUFF = "star\ncircle, disc\nheart\nmushroom, toadstool", "sky\ngrass, lawn\nwater, sea"
NEW = "a pink heart"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of the page on a file server, and its model, exported for it."""
    root = tmp_path_factory.mktemp("site")
    (root / PAGE).mkdir(parents=True)
    for path in (ROOT / PAGE).glob("*.*"):
        if path.suffix in (".js", ".css", ".html"):
            (root / PAGE / path.name).symlink_to(path)
    (root / PAGE / "node_modules").symlink_to(RUNTIME)
    (root / "demo/images").symlink_to(ROOT / "demo/images")
    (root / "frozenseg").symlink_to(ROOT / "frozenseg")
    model = root / PAGE / "model.onnx"
    words = root / "words.txt"
    words.write_text(f"[things]\n{THINGS}\n[stuff]\n{STUFF}\n")
    line = ["--size", "128x160", "--precision", "int8"]
    main([*line, "--vocabulary-file", str(words), "--output", str(model)])
    handler = partial(_Quiet, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{PAGE}/", model
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


def found_on(page: Any) -> list[str]:
    """Names of the segments that the page lists, in alphabetical order."""
    page.wait_for_selector("#found li")
    page.wait_for_selector("body:not(.busy)")
    return sorted(row.split("\n")[0] for row in page.locator("#found li").all_inner_texts())


@needs_onnx
@needs_runtime
@pytest.mark.slow
def test_the_page_finds_what_the_package_finds(site: tuple[str, Path]) -> None:
    address, model = site
    words = Vocabulary.from_file(model.parents[3] / "words.txt")
    scene = ROOT / "demo/images/scene_2.png"
    with chromium() as browser, frozenseg.load(model) as segmenter:
        visit = Visit(browser, address)
        visit.page.goto(address)
        expected = segmenter(scene, words, threshold=0).panoptic
        assert found_on(visit.page) == sorted(part.name for part in expected.segments)
        assert visit.page.input_value("#things").replace("\n", ";") == THINGS.replace("\n", ";")
        # Words that nobody exported are encoded by the text tower in the page.
        visit.page.fill("#things", f"{NEW}\nstar")
        visit.page.click("#go")
        visit.page.wait_for_function("document.body.classList.contains('busy') === false")
        named = Vocabulary.parse(f"{NEW}; star; sky; grass, lawn; water, sea", f"{NEW}; star")
        expected = segmenter(scene, named, threshold=0).panoptic
        assert found_on(visit.page) == sorted(part.name for part in expected.segments)
        assert not visit.failures
        assert all(request.startswith(address.partition("/demo")[0]) for request in visit.requests)


@needs_runtime
@pytest.mark.slow
def test_words_and_pictures_are_as_in_python(site: tuple[str, Path]) -> None:
    address, model = site
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 4), dtype=np.uint8)
    texts = ["a photo of a café.", "Don't STOP  the T-shirt 42!", "日本の猫", "naïve; x_y"]
    script = """async ([pixels, texts, names]) => {
        const { toWindow } = await import("./picture.js");
        const { tokenizer, singular } = await import("./words.js");
        const { fetchBytes, readAbout } = await import("./files.js");
        const about = readAbout(await fetchBytes("model.text.onnx"));
        const tokenize = tokenizer(about.merges, about.context_length);
        const small = toWindow({ data: pixels, width: 70, height: 50 }, [32, 64]);
        return {
            tokens: texts.map((text) => [...tokenize(text)].map(Number)),
            pixels: [...small.pixels], size: small.size,
            names: names.map(singular),
        };
    }"""
    names = ["Berries", "buses", "glass", "gas", "T-shirts"]
    with chromium() as browser:
        visit = Visit(browser, address)
        visit.page.goto(address)
        found = visit.page.evaluate(script, [pixels.flatten().tolist(), texts, names])
    length = len(found["tokens"][0])
    assert found["tokens"] == open_clip.SimpleTokenizer(context_length=length)(texts).tolist()
    height, width = found["size"]
    assert (height, width) == (32, 45)
    image = Image.fromarray(pixels[..., :3]).resize((45, 32), Image.Resampling.BILINEAR)
    mine = np.array(found["pixels"]).reshape(3, 32, 64)[:, :, :45].transpose(1, 2, 0)
    assert np.abs(mine - np.asarray(image)).max() <= 1
    assert found["names"] == [singular(name) for name in names]
