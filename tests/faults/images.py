"""Pictures, videos, and places of results."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.table import Case, Make, World, raw

DEMO = (
    "demo --config-file world/tiny.yaml --weights world/weights.safetensors --vocabulary car "
    "--output out --input {}"
)


def picture(name: str, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Make:
    return lambda world, folder: Image.new(mode, size).save(folder / name)


def bomb(world: World, folder: Path) -> None:
    """A small file of 400 million pixels."""
    Image.new("1", (19_999, 19_999)).save(folder / "bomb.png")


def cut(name: str) -> Make:
    def make(world: World, folder: Path) -> None:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)).save(
            folder / name
        )
        (folder / name).write_bytes((folder / name).read_bytes()[:500])

    return make


def video(cut_at: float) -> Make:
    def make(world: World, folder: Path) -> None:
        import cv2

        writer = cv2.VideoWriter(
            str(folder / "x.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48)
        )
        for number in range(10):
            writer.write(np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8))
        writer.release()
        data = (folder / "x.avi").read_bytes()
        (folder / "x.avi").write_bytes(data[: int(len(data) * cut_at)])

    return make


GOOD = "world/data/images/1.png"
DONE = ("out/predictions/panoptic.json",)
CASES = [
    Case("postscript_named_jpg", DEMO.format("x.jpg"), 2, "x.jpg",
         raw("x.jpg", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"), fast=True),
    Case("postscript_among_good", DEMO.format(f"x.jpg {GOOD}"), 1, "x.jpg",
         raw("x.jpg", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"), DONE),
    *(Case(f"cut_{kind}", DEMO.format(f"x.{kind}"), 2, f"x.{kind}", cut(f"x.{kind}"),
           fast=kind in ("png", "tif"))
      for kind in ("png", "jpg", "webp", "bmp", "gif", "tif", "jp2")),
    Case("bomb", DEMO.format("bomb.png"), (0, 2), "bomb.png", bomb),
    Case("bomb_among_good", DEMO.format(f"bomb.png {GOOD}"), 1, "bomb.png", bomb, DONE),
    Case("bomb_last", DEMO.format(f"{GOOD} bomb.png"), 1, "bomb.png", bomb, DONE),
    Case("control_letters", DEMO.format("'a\nb\x1b[31mX.png'"), 2, r"a\\nb\\x1b",
         raw("a\nb\x1b[31mX.png", "no picture"), fast=True),
    Case("missing_long", DEMO.format("z" * 300 + ".png"), 2, "zzz", fast=True),
    Case("missing_deep", DEMO.format("/z" * 2500), 2, "/z/z", fast=True),
    Case("name_of_240", DEMO.format("m" * 236 + ".png"), 0, "1 of 1",
         picture("m" * 236 + ".png")),
    Case("address", DEMO.format("https://example.com/a.jpg"), 2, "example.com/a.jpg",
         fast=True),
    Case("fifo", DEMO.format("x.png"), 2, "x.png",
         lambda world, folder: os.mkfifo(folder / "x.png"), fast=True),
    Case("output_is_a_file", DEMO.format(GOOD).replace("out ", "world/tiny.yaml "), 2, "tiny.yaml",
         fast=True),
    Case("batch_of_10^12", DEMO.format(GOOD) + " --batch-size 1000000000000", (0, 2), ""),
    Case("batch_of_10^6", DEMO.format("world/data/images") + " --batch-size 1000000", (0, 2), ""),
    Case("video_cut", DEMO.format("x.avi"), (1, 2), "x.avi", video(0.5)),
    Case("video_text", DEMO.format("x.mp4"), 2, "x.mp4", raw("x.mp4", "text")),
    Case("video_playlist", DEMO.format("x.mp4"), 2, "x.mp4",
         raw("x.mp4", "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.ts\n#EXT-X-ENDLIST\n")),
]  # fmt: skip
