"""Every kind of image comes in right, and what is no image is named in one line."""

import errno
import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from frozenseg.data import images
from frozenseg.data.image_files import is_video, list_images
from frozenseg.data.image_inputs import to_array
from frozenseg.data.images import UnreachableFile, read_image, read_pil
from frozenseg.errors import MissingFileError, UserError
from frozenseg.notes import note


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def _saved(image: Image.Image, path: Path, **options: object) -> np.ndarray:
    image.save(path, **options)
    result = read_image(path)
    assert result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] == 3
    return result


def test_rgb(tmp_path: Path, photo: np.ndarray) -> None:
    result = _saved(Image.fromarray(photo), tmp_path / "a.png")
    assert np.array_equal(result, photo)
    result[0] = 0  # what is returned may be written to


def test_grey_and_one_bit(tmp_path: Path, photo: np.ndarray) -> None:
    grey = photo[..., 0]
    assert np.array_equal(_saved(Image.fromarray(grey), tmp_path / "a.png"), np.dstack([grey] * 3))
    bits = grey > 127
    result = _saved(Image.fromarray(bits), tmp_path / "b.png")
    assert np.array_equal(result, np.dstack([bits * 255] * 3))


def test_alpha_lies_over_white(tmp_path: Path, photo: np.ndarray) -> None:
    alpha = np.random.default_rng(1).integers(0, 256, photo.shape[:2], dtype=np.uint8)
    result = _saved(Image.fromarray(np.dstack([photo, alpha])), tmp_path / "a.png")
    part = alpha[..., None] / 255
    assert np.abs(result - (photo * part + 255 * (1 - part))).max() <= 1
    grey = Image.fromarray(photo[..., 0])
    grey.putalpha(Image.fromarray(np.zeros_like(alpha)))
    assert (_saved(grey, tmp_path / "la.png") == 255).all()


def test_palette_and_its_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 200, 30, 40])
    image.putpixel((0, 0), 0)
    result = _saved(image, tmp_path / "a.png")
    assert result[1, 1].tolist() == [200, 30, 40] and result[0, 0].tolist() == [0, 0, 0]
    result = _saved(image, tmp_path / "b.png", transparency=0)
    assert result[1, 1].tolist() == [200, 30, 40] and result[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    values = np.arange(0, 65536, 655, dtype=np.uint16)[None]
    path = tmp_path / f"a.{suffix}"
    assert cv2.imwrite(str(path), values)  # another writer than the reader under test
    expected = np.rint(values / 257).astype(int)
    assert np.array_equal(read_image(path).astype(int), np.dstack([expected] * 3))


def test_grey_values_of_32_bits_that_come_from_8_are_not_black(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8)[None]
    image = Image.fromarray(grey).convert("I")
    for found in (read_pil(image), _saved(image, tmp_path / "a.tif")):
        np.testing.assert_array_equal(found, np.dstack([grey] * 3))


def test_a_nearly_black_image_of_16_bits_is_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its values may be those of 8 bits, but an image may also be dark."""
    note.cache_clear()
    for suffix in ("png", "pgm"):
        assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), np.full((3, 4), 200, np.uint16))
        assert (read_image(tmp_path / f"a.{suffix}") == 1).all()
    assert len(caplog.messages) == 1 and "if these are values of 8 bits" in caplog.text


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_rgb_is_scaled(tmp_path: Path, suffix: str) -> None:
    rgb = np.random.default_rng(0).integers(0, 65536, (5, 6, 3), dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    assert cv2.imwrite(str(path), rgb[..., ::-1])
    assert np.abs(read_image(path) - rgb / 257).max() <= 1


def test_float_tiff(tmp_path: Path) -> None:
    result = _saved(Image.fromarray(np.full((3, 4), 0.5, dtype=np.float32)), tmp_path / "a.tif")
    assert (result == 128).all()
    Image.fromarray(np.full((3, 4), 300.0, dtype=np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(UserError, match=r"b\.tif: float images must lie in 0-1"):
        read_image(tmp_path / "b.tif")


def test_cmyk(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta and yellow give red
    result = _saved(ink, tmp_path / "a.jpg", quality=95)
    assert np.abs(result.astype(int) - [255, 0, 0]).max() <= 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :8] = [250, 0, 0]
    upright[8:, 24:] = [0, 0, 250]
    # How a camera held so stores an upright scene; after the EXIF standard, tag 274
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    result = _saved(
        Image.fromarray(np.ascontiguousarray(stored)), tmp_path / "a.png", exif=exif.tobytes()
    )
    assert np.array_equal(result, upright)


@pytest.mark.parametrize("size", [(1, 1), (12_000, 3), (3, 12_000)])
def test_extreme_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    result = _saved(Image.new("RGB", size, (1, 2, 3)), tmp_path / "a.png")
    assert result.shape == (size[1], size[0], 3) and (result == [1, 2, 3]).all()


def _bad_files(folder: Path, photo: np.ndarray) -> dict[str, str]:
    """Bad files in `folder`: name -> a word of the reason."""
    Image.fromarray(photo).save(folder / "whole.png")
    Image.fromarray(np.kron(photo, np.ones((9, 9, 1), np.uint8))).save(folder / "whole.jpg")
    for name in ("whole.png", "whole.jpg"):
        data = (folder / name).read_bytes()
        (folder / name.replace("whole", "half")).write_bytes(data[: len(data) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "folder.jpg").mkdir()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    (folder / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )  # fmt: skip
    return {
        "half.png": "damaged",
        "half.jpg": "damaged",
        "empty.jpg": "empty",
        "text.jpg": "not an image",
        "folder.jpg": "is a folder",
        "missing.jpg": "no such file",
        "bomb.png": "has more than 400,000,000 pixels",
    }


def test_what_is_no_image_is_named_in_one_line(tmp_path: Path, photo: np.ndarray) -> None:
    for name, reason in _bad_files(tmp_path, photo).items():
        with pytest.raises(UserError, match=reason) as caught:
            read_image(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: ") and "\n" not in message


class Failing(io.BytesIO):
    """A file on a drive that answers the reads of some numbers with an error."""

    def __init__(self, content: bytes, number: int, reads: range) -> None:
        super().__init__(content)
        self.name, self.number, self.reads, self.count = "a.png", number, reads, 0

    def read(self, size: int | None = -1) -> bytes:
        self.count += 1
        if self.count in self.reads:
            raise OSError(self.number, os.strerror(self.number))
        return super().read(size)


EVER = 10**6
LOST = [errno.ENOTCONN, errno.ESTALE, errno.EIO, errno.ETIMEDOUT]


@pytest.fixture
def png(photo: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("number", LOST)
def test_a_drive_that_drops_out_is_no_damage(
    number: int, png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Failing(png, number, range(0))
    read_image(whole)
    for first in range(1, whole.count + 1):  # wherever in the file, for ever or once
        for end in (EVER, first + 1):
            with pytest.raises(UnreachableFile, match="^a.png: cannot be reached .*; bring its"):
                read_image(Failing(png, number, range(first, end)))
    path = tmp_path / "b.png"
    path.write_bytes(png)

    def stat(path: Path, **options: object) -> os.stat_result:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(UnreachableFile, match=r"b.png: cannot be reached \([A-Z][^\[]*\); bring"):
        read_image(path)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EINVAL, "damaged image .*; copy it again"),  # a place that no file has
        (errno.EACCES, "cannot be read .Permission denied.; check its permissions"),
        (errno.ENOENT, "no such file; copy it there"),  # removed since it was found
        (errno.ENOMEM, "cannot be read .Cannot allocate memory.; scale it down"),
    ],
)
def test_what_the_system_says_of_one_file_is_no_lost_drive(
    number: int, words: str, png: bytes
) -> None:
    with pytest.raises(UserError, match=f"^a.png: {words}") as caught:
        read_image(Failing(png, number, range(1, EVER)))
    assert not isinstance(caught.value, UnreachableFile)
    assert isinstance(caught.value, MissingFileError) == (number == errno.ENOENT)


def test_names_and_links_that_the_system_refuses(tmp_path: Path) -> None:
    (tmp_path / "circle.png").symlink_to("circle.png")
    for name, words in {
        f"{'a' * 300}.png": "File name too long.; choose a shorter file name",
        "circle.png": "symbolic links.; copy the file itself",
    }.items():
        with pytest.raises(UserError, match=f"cannot be read .*{words}") as caught:
            read_image(tmp_path / name)
        assert not isinstance(caught.value, UnreachableFile)


def test_pillows_own_limit_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert _saved(Image.new("RGB", (50, 50)), tmp_path / "a.png").shape == (50, 50, 3)
    assert Image.MAX_IMAGE_PIXELS == 10
    monkeypatch.setattr(images, "MAX_PIXELS", 2499)
    with pytest.raises(UserError, match="50 x 50 pixels, more than 2,499"):
        read_image(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore:::PIL")
def test_damage_anywhere_is_a_user_error_or_an_image(tmp_path: Path, photo: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for kind in ("png", "jpg", "tif", "gif", "webp", "bmp"):
        path = tmp_path / f"a.{kind}"
        Image.fromarray(photo).save(path)
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for _ in range(40):
            damaged = data[: rng.integers(1, len(data) + 1)].copy()
            damaged[rng.integers(0, len(damaged), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
            try:
                assert read_image(path).ndim == 3
            except UserError as error:
                assert str(path) in str(error) and "\n" not in str(error)


def test_arrays_and_tensors_give_the_same(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")
    tensor = torch.from_numpy(photo)
    for same in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(photo),
        photo,
        photo[::-1][::-1],
        photo.astype(np.uint16) * 257,
        photo / 255,
        (photo / 255).astype(np.float32),
        np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)]),
        tensor,
        tensor.permute(2, 0, 1),
        tensor.permute(2, 0, 1).float() / 255,
    ):
        result = to_array(same)
        assert result.dtype == np.uint8 and np.array_equal(result, photo)
    grey = np.dstack([photo[..., :1]] * 3)
    assert np.array_equal(to_array(photo[..., 0]), grey)
    assert np.array_equal(to_array(photo[..., :1]), grey)
    half = to_array((tensor.permute(2, 0, 1).float() / 255).bfloat16())
    assert np.abs(half.astype(int) - photo).max() <= 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((3, 8, 9), np.uint8), r"got \(3, 8, 9\); channels come last"),
        (np.zeros((2, 8, 9, 3), np.uint8), r"got \(2, 8, 9, 3\)"),
        (np.zeros((0, 9, 3), np.uint8), r"got \(0, 9, 3\)"),
        (np.zeros((8, 9, 3), np.int64), "got int64"),
        (np.full((8, 9, 3), 200.0), "go from 200 to 200"),
        (np.full((8, 9, 3), np.nan), "go from nan to nan"),
        (torch.zeros(1, 3, 8, 9), r"got \(1, 3, 8, 9\)"),
        ([[1, 2], [3, 4]], "got list"),
        (None, "got NoneType"),
    ],
)
def test_other_things_are_refused(value: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        to_array(value)


def test_lists_files_folders_and_globs(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "c.txt", "d.mp4", "odd[1].png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "e.jpg").write_bytes(b"x")

    def names(*inputs: str) -> list[str]:
        return [path.name for path in list_images([f"{tmp_path}/{entry}" for entry in inputs])]

    assert names("") == ["a.PNG", "b.jpg", "d.mp4", "odd[1].png"]
    assert names("*.jpg") == ["b.jpg"]
    assert names("**/*.jpg") == ["b.jpg", "e.jpg"]
    assert names("b.jpg", "a.PNG", "sub/../b.jpg") == ["b.jpg", "a.PNG"]
    assert names("odd[1].png") == ["odd[1].png"]
    (tmp_path / "f.ts").write_text("export const answer = 42;\n")
    (tmp_path / "g.ts").write_bytes(bytes.fromhex("474011100042f025"))
    (tmp_path / "h.mts").write_text("")
    assert names("") == ["a.PNG", "b.jpg", "d.mp4", "g.ts", "odd[1].png"]
    assert names("f.ts") == ["f.ts"]
    assert is_video(Path("x.MP4")) and not is_video(Path("x.jpg"))


def test_a_link_to_an_image_is_an_image_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"x")
    (folder / "b.png").symlink_to("a.png")
    (folder / "sub" / "c.png").symlink_to("../a.png")
    (folder / "sub" / "circle").symlink_to("..")
    (tmp_path / "link").symlink_to("photos")

    def names(*inputs: str) -> list[str]:
        found = list_images([f"{tmp_path}/{entry}" for entry in inputs], recursive=True)
        return [path.name for path in found]

    assert names("photos") == names("photos", "link") == ["a.png", "b.png", "c.png"]
    assert sorted(names("photos/**/*.png")) == ["a.png", "b.png", "c.png"]


def test_inputs_that_name_nothing(tmp_path: Path) -> None:
    for entry, words in [("gone.jpg", "no such file"), ("*.jpg", "no file matches"), ("", "no im")]:
        with pytest.raises(UserError, match=words) as caught:
            list_images([f"{tmp_path}/{entry}"])
        assert str(tmp_path) in str(caught.value)
    with pytest.raises(UserError, match="^the name of an input is empty"):
        list_images([str(tmp_path), ""])  # not the working folder


def test_the_folder_of_results_is_left_out(tmp_path: Path) -> None:
    results = tmp_path / "photos" / "out"
    for path in ("photos/a.png", "photos/out/a.png", "photos/out/deep/b.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")

    def names(entry: str, leave_out: Path) -> list[str]:
        found = list_images([f"{tmp_path}/{entry}"], recursive=True, leave_out=leave_out)
        return [path.relative_to(tmp_path).as_posix() for path in found]

    assert names("photos", results) == names("photos/**/*.png", results) == ["photos/a.png"]
    assert names("photos/out/a.png", results) == ["photos/out/a.png"]
    assert names("photos/out/deep", results) == ["photos/out/deep/b.png"]
    assert names("photos/a.png", tmp_path) == ["photos/a.png"]
    assert len(names("photos", tmp_path)) == 3  # results lie beside this folder, not in it
    for entry, folder in (("photos", tmp_path / "photos"), ("photos/out/*.png", results)):
        with pytest.raises(UserError, match="lies in the folder of results, .*choose another"):
            names(entry, folder)
