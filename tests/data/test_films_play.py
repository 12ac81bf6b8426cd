"""Films that are written here play in Chromium."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from frozenseg.data.video import CODECS, read_video, video_writer
from tests.data.films import film
from tests.serve.browsing import chromium

pytest.importorskip("av", reason='pip install "frozenseg[video]"')

DOCS = Path(__file__).parents[2] / "docs"
PLAY = """async () => {
  const video = document.querySelector("video");
  video.muted = true;
  const ended = new Promise(resolve => { video.onended = video.onerror = resolve; });
  await video.play();
  await ended;
  const error = video.error && video.error.message;
  return [error, video.getVideoPlaybackQuality().totalVideoFrames, video.videoWidth];
}"""


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Any]:
    with chromium() as browser:
        yield browser.new_page()


def _play(page: Any, path: Path) -> list[Any]:
    page.goto(path.as_uri())
    return page.evaluate(PLAY)


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_a_film_of_each_codec(tmp_path: Path, browser_page: Any, codec: str) -> None:
    source = film(tmp_path / "a.mkv", sound="libopus")
    video = read_video(source)
    with video_writer(tmp_path / "b.mp4", 10, codec=codec, sound=source) as append:
        for frame in video.frames():
            append(frame.pixels, frame.time)
    assert _play(browser_page, tmp_path / "b.mp4") == [None, 10, 64]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["crossing.mp4", "panned.mp4"])
def test_the_films_of_the_documents(browser_page: Any, name: str) -> None:
    error, frames, width = _play(browser_page, DOCS / name)
    assert error is None and frames >= 24 and width >= 640
