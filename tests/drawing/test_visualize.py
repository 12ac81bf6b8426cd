"""Pictures of results: colours where they belong, names inside, no break on odd input."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from frozenseg.drawing import fonts, lettering
from frozenseg.drawing.fonts import font_of
from frozenseg.drawing.lettering import (
    FAINT,
    INK,
    PANEL,
    Labels,
    fit,
    inner_point,
    number_of,
    printable,
    wrap,
)
from frozenseg.drawing.palette import class_colors, luminance, picture_colors, readable_on
from frozenseg.drawing.visualize import _resized, draw_segments
from frozenseg.errors import UserError
from frozenseg.inference.regions import class_regions
from frozenseg.structures import Segment


def _segment(number: int, class_id: int, name: str = "road", thing: bool = False) -> Segment:
    return Segment(number, class_id, name, thing, 0.87, 100, (0, 0, 10, 10))


def _halves(height: int = 700, width: int = 800) -> np.ndarray:
    ids = np.full((height, width), 1, dtype=np.int32)
    ids[:, width // 2 :] = 900_000  # ids need not be small
    return ids


def test_colors_lie_on_their_segments() -> None:
    ids = _halves()
    image = np.full((*ids.shape, 3), 100, dtype=np.uint8)
    drawn = draw_segments(image, ids, [_segment(900_000, 7), _segment(1, 3)], legend=False)
    assert drawn.size == (800, 700)
    picture = np.asarray(drawn).astype(int)
    classes, ground = (np.array([3, 7]), np.zeros(2, bool)), np.full((2, 3), 100, np.uint8)
    colors = picture_colors(*classes, ground).astype(int)
    for column, color in [(50, colors[0]), (780, colors[1])]:
        assert np.abs(picture[10, column] - (100 + color) / 2).max() <= 1
    opaque = draw_segments(image, ids, [_segment(1, 3)], legend=False, opacity=1.0)
    assert np.array_equal(np.asarray(opaque)[10, 50], colors[0])
    assert (np.asarray(opaque)[10, 780] == 100).all()  # in no segment: as it was


def test_outlines_stand_between_segments_only() -> None:
    image = np.full((700, 800, 3), 90, dtype=np.uint8)
    segments = [_segment(1, 3, ""), _segment(900_000, 7, "")]
    row = np.asarray(draw_segments(image, _halves(), segments, legend=False))[5].astype(int)
    changed = np.abs(row - np.roll(row, 1, axis=0)).max(axis=1) > 5
    assert changed[390:410].any() and not changed[1:390].any() and not changed[410:].any()


def test_a_class_keeps_its_color_and_objects_differ_in_shade() -> None:
    classes = np.array([5, 5, 5, 9])
    shaded = class_colors(classes, np.ones(4, bool), np.array([0, 1, 2, 0])).astype(int)
    plain = class_colors(classes, np.ones(4, bool)).astype(int)
    assert np.array_equal(plain[0], plain[1]) and np.array_equal(shaded[0], plain[0])
    assert len(np.unique(shaded, axis=0)) == 4
    within = np.abs(shaded[1] - shaded[0]).sum()
    assert within < np.abs(plain[3] - plain[0]).sum()


@pytest.mark.parametrize("thing", [True, False])
def test_colors_of_small_vocabularies_are_far_apart(thing: bool) -> None:
    colors = class_colors(np.arange(16), np.full(16, thing)).astype(int)
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=2)
    assert distance[~np.eye(16, dtype=bool)].min() > (60 if thing else 35)
    many = class_colors(np.arange(200), np.full(200, thing))
    assert len(np.unique(many, axis=0)) == 200


def test_legend_and_note_are_added_outside_the_picture() -> None:
    ids, image = _halves(), np.full((700, 800, 3), 90, dtype=np.uint8)
    segments = [_segment(1, 3), _segment(900_000, 7, "car", True)]
    bare = draw_segments(image, ids, segments, legend=False)
    with_legend = draw_segments(image, ids, segments)
    assert np.array_equal(np.asarray(with_legend)[:700, :800], np.asarray(bare))
    panel = np.asarray(with_legend)[:, 800:]
    classes, ground = (np.array([3, 7]), np.array([False, True])), np.full((2, 3), 90, np.uint8)
    for color in picture_colors(*classes, ground):
        assert (panel == color).all(axis=2).sum() > 50  # the swatch
    noted = draw_segments(image, ids, segments, note="random weights")
    band = noted.height - with_legend.height
    assert band >= 15 and np.array_equal(np.asarray(noted)[band:], np.asarray(with_legend))
    assert (np.asarray(noted)[:band] == [255, 193, 7]).all(axis=2).mean() > 0.5


def test_names_are_written_inside_their_regions() -> None:
    ids = np.zeros((700, 800), dtype=np.int32)
    ids[100:300, 500:760] = 4
    image = np.zeros((700, 800, 3), dtype=np.uint8)
    named = np.asarray(draw_segments(image, ids, [_segment(4, 3, "dog")], legend=False))
    blank = np.asarray(draw_segments(image, ids, [_segment(4, 3, "")], legend=False))
    rows, columns = np.nonzero((named != blank).any(axis=2))
    assert 100 < rows.min() and rows.max() < 300 and 500 < columns.min() and columns.max() < 760


def test_inner_point_is_the_farthest_from_every_border() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = rng.random((14, 19)) > 0.15
        x, y, _ = inner_point(mask)
        outside = np.argwhere(~np.pad(mask, 1)) - 1
        inside = np.argwhere(mask)
        distance = np.linalg.norm(inside[:, None] - outside[None], axis=2).min(axis=1)
        assert mask[y, x]
        assert np.linalg.norm(outside - [y, x], axis=1).min() > distance.max() * 0.9


def test_labels_do_not_overlap_and_stay_on_the_picture() -> None:
    labels = Labels(Image.new("RGB", (300, 120)), font_of(14))
    rng = np.random.default_rng(0)
    written = [
        labels.write("person", (x, y), (9, 9, 9), width=90, leeway=30)
        for x, y in zip(rng.integers(0, 300, 60), rng.integers(0, 120, 60), strict=True)
    ]
    assert sum(written) == len(labels.plates) > 5
    cover = np.zeros((120, 300), dtype=int)
    for x0, y0, x1, y1 in labels.plates:
        assert 0 <= x0 < x1 <= 300 and 0 <= y0 < y1 <= 120
        cover[y0:y1, x0:x1] += 1
    assert cover.max() == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (300, 2), (20, 12_000), (2500, 30), (90, 128)])
def test_odd_sizes(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 50, dtype=np.uint8)
    ids = np.ones(shape, dtype=np.int32)
    drawn = draw_segments(image, ids, [_segment(1, 2)], legend=False)
    assert 1 <= max(drawn.size) <= 2000
    if max(shape) >= 40:
        assert max(drawn.size) >= 640
    full = draw_segments(image, ids, [_segment(1, 2)], note="random weights: masks mean nothing")
    assert full.width > drawn.width and full.height > drawn.height


def test_many_classes_stay_within_the_picture() -> None:
    ids = np.arange(120 * 160, dtype=np.int32).reshape(120, 160) // 160
    names = [f"class number {index}" for index in range(120)]
    image = np.zeros((120, 160, 3), dtype=np.uint8)
    regions = class_regions(ids, names)
    assert draw_segments(image, regions.ids, regions.segments).height == 480


def test_the_line_that_counts_hidden_classes_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    draw = lettering.fit
    monkeypatch.setattr(
        lettering,
        "fit",
        lambda text, width, font: texts.append(draw(text, width, font)) or texts[-1],
    )
    rows = [lettering.LegendRow(((9, 9, 9),), "cup", "0.9", "1 %")] * 120
    lettering.legend_panel(rows, 300, font_of(15))
    assert texts[-1].startswith("and ") and texts[-1].endswith(" more")


@pytest.mark.parametrize(
    "name",
    ["x" * 300, "家", "😀 dog", "дом", "سيارة", "two\nlines", "\x00\u200d", "", "é", "a" * 5],
)
def test_any_name_can_be_drawn(name: str) -> None:
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    ids = np.ones((60, 80), dtype=np.int32)
    picture = draw_segments(image, ids, [_segment(1, 2, name)], note=name or None)
    assert picture.width < 640 + 500


def test_signs_that_no_font_has_are_replaced_and_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "_files", lambda: (fonts.OWN,))
    fonts.font_file.cache_clear()
    lettering.warn_of_missing_letters.cache_clear()
    assert printable("traffic light") == "traffic light"
    assert printable("Café crème") == "Cafe creme"
    assert printable("家", instead=number_of(3)) == "class 4"
    assert printable("big 家") == "big ?"
    assert printable("дом", instead="class 2") == "class 2"
    assert printable(" two\n lines\t") == "two lines"
    fonts.font_file.cache_clear()
    assert [record.name for record in caplog.records] == ["frozenseg.drawing.lettering"]


def test_long_names_end_in_an_ellipsis() -> None:
    font = font_of(14)
    text = "a very long name of a class " * 12
    short = fit(text, 120, font)
    assert short.endswith("...") and text.startswith(short[:-3])
    assert 100 < font.getlength(short) <= 120
    assert fit("road", 120, font) == "road" and fit("road", 1, font) == ""
    assert all(font.getlength(line) <= 120 for line in wrap(text + "x" * 300, 120, font))


def test_semantic_ignores_what_is_no_class() -> None:
    ids = np.full((650, 700), 1, dtype=np.int32)
    ids[:, :200], ids[:, 500:] = 255, -1
    image = np.full((650, 700, 3), 7, dtype=np.uint8)
    found = class_regions(ids, ["sky", "sea"])
    picture = np.asarray(draw_segments(image, found.ids, found.segments, legend=False, opacity=1.0))
    assert (picture[9, 100] == 7).all() and (picture[9, 600] == 7).all()
    assert np.array_equal(picture[9, 300], class_colors(np.array([1]), np.array([False]))[0])


def test_the_same_input_gives_the_same_picture(reference: Path) -> None:
    sample = reference / "coco_sample"
    content = json.loads((sample / "panoptic_examples.json").read_text())
    annotation = content["annotations"][0]
    image = np.asarray(Image.open(sample / annotation["file_name"].replace("png", "jpg")))
    colors = np.asarray(Image.open(sample / "panoptic_examples" / annotation["file_name"]))
    ids = (colors.astype(np.int32) * [1, 256, 65536]).sum(axis=2)
    segments = [_segment(info["id"], info["category_id"]) for info in annotation["segments_info"]]
    first, second = (draw_segments(image, ids, order) for order in (segments, segments[::-1]))
    assert first.size[0] > 640 and np.array_equal(np.asarray(first), np.asarray(second))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"got \(8, 9, 3\) and \(9, 8\)"):
        draw_segments(np.zeros((8, 9, 3), np.uint8), np.zeros((9, 8), np.int32), [])


def lab(colors: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]


def without_middle_cones(colors: np.ndarray) -> np.ndarray:
    """As a deuteranope sees them (Vienot, Brettel and Mollon, 1999), not by the code's matrix."""
    light = (colors / 255.0) ** 2.2
    red = 0.29275 * light[..., 0] + 0.70725 * light[..., 1]
    blue = -0.02234 * light[..., 0] + 0.02234 * light[..., 1] + light[..., 2]
    return 255 * np.stack([red, red, blue], -1).clip(0, 1) ** (1 / 2.2)


def least_distance(colors: np.ndarray) -> float:
    points = lab(colors)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return float(distance[~np.eye(len(colors), dtype=bool)].min())


@pytest.mark.parametrize(("count", "classes", "least"), [(13, 1, 15), (20, 3, 9), (50, 10, 5)])
def test_segments_of_a_picture_can_be_told_apart(count: int, classes: int, least: float) -> None:
    """CIELAB distance; 2.3 is just noticeable."""
    class_ids = np.arange(count) % classes
    colors = picture_colors(class_ids, np.ones(count, dtype=bool))
    assert least_distance(colors) >= least
    assert least_distance(without_middle_cones(colors)) >= 0.6 * least
    assert np.array_equal(colors, picture_colors(class_ids, np.ones(count, dtype=bool)))


def test_objects_of_a_class_are_more_alike_than_those_of_others() -> None:
    class_ids = np.array([0] * 6 + [1] * 6)
    points = lab(picture_colors(class_ids, np.ones(12, dtype=bool)))
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert distance[:6, :6].mean() < 0.6 * distance[:6, 6:].mean()


def test_more_segments_than_colours_are_drawn_all_the_same() -> None:
    assert picture_colors(np.zeros(700, dtype=int), np.zeros(700, dtype=bool)).shape == (700, 3)
    assert picture_colors(np.zeros(0, dtype=int), np.zeros(0, dtype=bool)).shape == (0, 3)


@pytest.mark.parametrize("thing", [True, False])
def test_a_mask_can_be_told_from_what_lies_under_it(thing: bool) -> None:
    """The same green over grass of that green, and every class over its own colour."""
    for class_id in range(30):
        classes = np.array([class_id]), np.array([thing])
        ground = class_colors(*classes)
        colors = picture_colors(*classes, ground)
        drawn = (colors.astype(float) + ground) / 2
        assert least_distance(np.concatenate([drawn, ground])) > 13


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_outlines_show_on_any_ground(ground: int) -> None:
    """Across a border some pixels are much brighter than others: 4.5 : 1 at least."""
    image = np.full((700, 800, 3), ground, dtype=np.uint8)
    drawn = np.asarray(
        draw_segments(image, _halves(), [_segment(1, 0, ""), _segment(900_000, 0, "")], False, 0.0)
    )
    light = [luminance(tuple(color)) for color in drawn[5, 390:410].tolist()]
    assert (max(light) + 0.05) / (min(light) + 0.05) >= 4.5


def test_words_have_contrast_to_what_they_stand_on() -> None:
    """4.5 : 1, level AA of the web's accessibility guidelines."""

    def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
        light = sorted((luminance(one), luminance(other)))
        return (light[1] + 0.05) / (light[0] + 0.05)

    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert min(contrast(INK, PANEL), contrast(FAINT, PANEL)) >= 4.5
    for color in np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), -1).reshape(-1, 3).tolist():
        assert contrast(readable_on(tuple(color)), tuple(color)) >= 4.5


def test_without_a_home_folder_there_are_fonts_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a container whose user has no entry in passwd."""
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    fonts._files.cache_clear()
    assert fonts._files()[0] == fonts.OWN


def test_a_name_is_drawn_in_a_font_that_has_its_letters() -> None:
    for name in ("дом", "σπίτι", "naïve Ḝ"):  # matplotlib brings them
        assert printable(name) == name
        assert all(fonts.has_glyph(sign, fonts.font_file(name)) for sign in name)
    assert fonts.font_file("dog") == fonts.OWN


@pytest.mark.skipif(
    importlib.util.find_spec("manimgx_fonts_cjk") is None, reason='pip install "frozenseg[fonts]"'
)
@pytest.mark.parametrize("name", ["собака", "犬と猫", "개", "कुत्ता", "หมา", "σκύλος", "🐶"])
def test_noto_has_the_letters(name: str) -> None:
    file = fonts.font_file(name)
    assert file is not None and "Noto" in file


def test_fonts_of_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "manimgx_fonts"
    folder.mkdir()
    for name in ("__init__.py", "NotoSans-Italic[wght].ttf", "NotoSans[wght].ttf"):
        (folder / name).write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    fonts._files.cache_clear()
    assert fonts._files()[:2] == (fonts.OWN, str(folder / "NotoSans[wght].ttf"))
    monkeypatch.undo()
    fonts._files.cache_clear()


def test_a_class_without_letters_has_its_number_in_predictions_json() -> None:
    assert number_of(0) == "class 1"


def test_borders_of_enlarged_pictures_are_smooth() -> None:
    """A slanting border of a small image is a line of the picture, not a stair of large steps."""
    rank = np.triu(np.ones((40, 40), dtype=np.int32))
    large = _resized(rank, (640, 640))
    crossing = np.array([np.flatnonzero(row)[0] for row in large[100:540]])
    straight = np.polyval(np.polyfit(np.arange(len(crossing)), crossing, 1), np.arange(440))
    assert np.abs(crossing - straight).max() <= 5  # 16 pixels are a step of nearest neighbours
    assert set(np.unique(large)) == {0, 1}
    np.testing.assert_array_equal(_resized(rank, (40, 40)), rank)


def test_a_track_has_one_colour_whatever_else_is_there() -> None:
    image = np.full((300, 640, 3), 100, dtype=np.uint8)
    ids = np.full((300, 640), 1, np.int32)
    ids[:, 320:] = 2
    colors = []
    for others in ([], [(2, 3)], [(2, 9)]):
        tracked = [(1, 3), *others]
        segments = [
            replace(_segment(number, label, "", thing=True), track_id=number + 4)
            for number, label in tracked
        ]
        colors.append(np.asarray(draw_segments(image, ids, segments, legend=False))[10, 10])
    assert np.array_equal(colors[0], colors[1]) and np.array_equal(colors[0], colors[2])


def test_a_legend_whose_size_the_names_decide() -> None:
    image, ids = np.full((300, 640, 3), 100, dtype=np.uint8), np.ones((300, 640), np.int32)
    names = ["road", "a very long name of a class", "sky"]
    sizes = {
        draw_segments(image, ids, segments, names=names).size
        for segments in ([], [_segment(1, 0)], [_segment(1, 1, names[1], thing=True)])
    }
    assert len(sizes) == 1 and sizes.pop()[0] > 640
