"""Write pictures for people to look at: the demo's scenes, a contact sheet and short videos."""

from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from frozenseg.data.video import video_writer
from frozenseg.drawing.palette import class_colors
from frozenseg.files import atomic_path
from frozenseg.small_world.scene import Scene, SceneOptions, make_scene
from frozenseg.small_world.video import Motion, make_clip
from frozenseg.small_world.vocabulary import world_vocabulary

DEMO_SEED = 0
DEMO_SCENES = (34, 3, 18, 36, 33, 11)  # indices in the stream "demo", chosen by eye
DEMO_OPTIONS = SceneOptions(sides=(160, 240))
SHEET_WIDTH, ROW_HEIGHT, GAP = 960, 118, 4  # pixels


def demo_scenes() -> list[Scene]:
    """Return the scenes of `demo/images`, with their ground truth."""
    return [make_scene(DEMO_SEED, "demo", index, DEMO_OPTIONS) for index in DEMO_SCENES]


def write_demo(folder: Path) -> None:
    """Write images/scene_1.png, ... and vocabulary.txt, the input of `make demo`."""
    for number, scene in enumerate(demo_scenes(), 1):
        with atomic_path(folder / "images" / f"scene_{number}.png") as temporary:
            Image.fromarray(scene.image).save(temporary, optimize=True)
    with atomic_path(folder / "vocabulary.txt") as temporary:
        temporary.write_text(world_vocabulary().text(), encoding="utf-8")


def write_clips(folder: Path, seed: int) -> list[Path]:
    """Write a video of each motion, MOTION.mp4, as input for the demo; return their paths."""
    paths = []
    for motion in get_args(Motion):
        clip = make_clip(seed, motion, 0)
        paths.append(folder / f"{motion}.mp4")
        with video_writer(paths[-1], clip.fps) as append:
            for image in clip.images:
                append(image)
    return paths


def image_grid(seed: int, *, rows: int) -> Image.Image:
    """Draw rows of scenes, each above a row of their ground truth in the colours of the classes."""
    sheet = Image.new("RGB", (SHEET_WIDTH, rows * 2 * (ROW_HEIGHT + GAP)), "white")
    index = 0
    for row in range(rows):
        x, top = 0, row * 2 * (ROW_HEIGHT + GAP)
        while x < SHEET_WIDTH:
            scene = make_scene(seed, "val", index)
            height, width = scene.ids.shape
            size = (round(width * ROW_HEIGHT / height), ROW_HEIGHT)
            image = Image.fromarray(scene.image).resize(size, Image.Resampling.LANCZOS)
            truth = Image.fromarray(truth_picture(scene)).resize(size, Image.Resampling.NEAREST)
            sheet.paste(image, (x, top))
            sheet.paste(truth, (x, top + ROW_HEIGHT + 1))
            x, index = x + size[0] + GAP, index + 1
    return sheet


def write_sheet(path: Path, seed: int, *, rows: int = 3) -> None:
    """Write the contact sheet in 256 colours, because otherwise a PNG of textures is large."""
    sheet = image_grid(seed, rows=rows)
    palette = sheet.quantize(256, method=Image.Quantize.MEDIANCUT)
    sheet = sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    with atomic_path(path) as temporary:
        sheet.save(temporary, optimize=True)


def truth_picture(scene: Scene) -> np.ndarray:
    """Draw regions in the colours of their classes, objects in shades of them: (H, W, 3) uint8."""
    labels = world_vocabulary().labels
    classes = np.array([labels.index(region.name) for region in scene.regions])
    flags = np.array([region.is_thing for region in scene.regions])
    shades = np.array([int((classes[:i] == name).sum()) for i, name in enumerate(classes)])
    return class_colors(classes, flags, shades)[scene.ids - 1]
