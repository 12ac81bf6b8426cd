"""Images in every form that a call takes."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from frozenseg.data.image_inputs import OneFile, OwnFile, each_image, is_many, to_array
from frozenseg.data.images import file_name
from frozenseg.errors import MissingFileError, UserError


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    for name in ("b.png", "a.png", "x[1].png"):
        Image.fromarray(photo).save(tmp_path / name)
    (tmp_path / "film.mp4").write_bytes(b"video")
    return tmp_path


def test_bytes_and_files(folder: Path, photo: np.ndarray) -> None:
    content = (folder / "a.png").read_bytes()
    for image in (content, bytearray(content), memoryview(content), io.BytesIO(content)):
        np.testing.assert_array_equal(to_array(image), photo)
    with open(folder / "a.png", "rb") as file:
        file.seek(5)  # it is read from its beginning
        np.testing.assert_array_equal(to_array(file), photo)
        assert file_name(file) == str(folder / "a.png")
    with open(folder / "a.png", encoding="latin-1") as file:
        with pytest.raises(ValueError, match="opened as text; open it with mode 'rb'"):
            to_array(file)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "the image is empty"),
        (".//none.png", "^none.png: no such file"),
        (b"no picture", "the image: not an image"),
        (io.BytesIO(), "the image: not an image"),
        ("https://x.org/a.png", "^https://x.org/a.png: an address, which is not followed"),
        ("rtsp://camera/1", "an address"),
        ({"image": 1}, "got dict"),
        (Image.new("L", (0, 5)), r"has no pixels; its size is \(0, 5\)"),
        (torch.zeros(3, 8, 9, device="meta"), "must be dense and hold pixels"),
        (torch.zeros(3, 8, 3), r"shape \(3, 8, 3\) may be \(3, H, W\) or \(H, W, 3\)"),
    ],
)
def test_what_is_no_image(image: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_array(image)


class BytesPath(os.PathLike):
    """A path in bytes, as of `os.scandir(b".")`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> bytes:
        return os.fsencode(self.path)


def test_odd_views_of_an_image_are_read(folder: Path, photo: np.ndarray) -> None:
    content = (folder / "a.png").read_bytes()
    every_second = memoryview(bytes(byte for byte in content for _ in range(2)))[::2]
    path = BytesPath(folder / "a.png")
    for image in (every_second, path):
        np.testing.assert_array_equal(to_array(image), photo)
        (entry,) = each_image([image])
        np.testing.assert_array_equal(to_array(entry), photo)
    assert file_name(path) == str(folder / "a.png") and is_many(BytesPath(folder))
    assert len(list(each_image([BytesPath(folder)]))) == 3
    grey = photo[..., 0].view(np.matrix)
    np.testing.assert_array_equal(to_array(grey), photo[..., [0] * 3])
    values = torch.from_numpy(photo[..., 0] / 255)
    negative = torch.complex(values, -values).conj().imag
    assert negative.is_neg()
    np.testing.assert_array_equal(to_array(negative), photo[..., [0] * 3])


def test_a_set_of_images_has_no_order(folder: Path) -> None:
    for images in ({folder / "a.png"}, frozenset()):
        with pytest.raises(UserError, match="a set of images has no order; give a list, such as"):
            list(each_image(images))


def test_a_truncated_picture_is_one_kind_of_error(folder: Path, photo: np.ndarray) -> None:
    """By its path, as bytes, and opened by Pillow, which reads the pixels late."""
    buffer = io.BytesIO()
    Image.fromarray(photo.repeat(8, 0).repeat(8, 1)).save(buffer, "JPEG")
    half = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    (folder / "half.jpg").write_bytes(half)
    for image in (folder / "half.jpg", half, Image.open(folder / "half.jpg")):
        with pytest.raises(UserError, match="damaged image") as caught:
            to_array(image)
        assert isinstance(caught.value, ValueError)


def test_errors_that_people_catch(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.png: no such file"):
        to_array(folder / "none.png")
    with pytest.raises(ValueError, match="float images must lie in 0-1"):
        to_array(np.full((4, 4, 3), 9.0))
    assert issubclass(MissingFileError, UserError)


@pytest.mark.parametrize("scale", [1, np.uint16(257), np.float32(1 / 255), 1 / 255])
@pytest.mark.parametrize("channels", [slice(0, 3), slice(0, 1), 0])
def test_the_pixels_of_every_type_can_be_written(
    photo: np.ndarray, scale: float, channels: slice | int
) -> None:
    given = (photo[..., channels] * scale).astype(np.asarray(scale).dtype if scale != 1 else "u1")
    given.flags.writeable = False
    found = to_array(given)
    np.testing.assert_array_equal(found, photo if channels == slice(0, 3) else photo[..., [0] * 3])
    assert found.flags.writeable and found.flags.c_contiguous


def test_what_stands_for_several_images(folder: Path, photo: np.ndarray) -> None:
    for many in (
        [photo],
        (photo, photo),
        iter([photo]),
        photo[None],
        torch.zeros(2, 3, 8, 9),
        folder,
        str(folder),
        f"{folder}/*.png",
        {folder / "a.png"},
    ):
        assert is_many(many), many
    for one in (photo, folder / "a.png", folder / "x[1].png", folder / "none.png", b"x"):
        assert not is_many(one), one
    for one in (io.BytesIO(b"x"), Image.new("L", (2, 2)), {"a": 1}, None, torch.zeros(3, 8, 9)):
        assert not is_many(one), one


def test_folders_and_globs_give_their_images(folder: Path, photo: np.ndarray) -> None:
    names = ["a.png", "b.png", "x[1].png"]
    assert [path.name for path in each_image(folder)] == names
    assert [path.name for path in each_image(f"{folder}/?.png")] == names[:2]
    mixed = list(each_image([photo, str(folder), folder / "b.png"]))
    assert [getattr(entry, "name", None) for entry in mixed] == [None, *names, "b.png"]


def test_one_file_stands_for_one_image_though_it_is_gone_or_a_folder(folder: Path) -> None:
    (folder / "x1.png").write_bytes((folder / "x[1].png").read_bytes())
    (folder / "x[1].png").unlink()  # what is left is a glob, which x1.png matches
    ones = [OneFile(folder / "x[1].png"), OneFile(folder)]
    assert list(each_image(ones)) == ones
    for one, message in zip(ones, ("no such file", "is a folder"), strict=True):
        assert not is_many(one)
        with pytest.raises(UserError, match=message):
            to_array(one)


def test_one_array_is_no_list_of_its_rows(photo: np.ndarray) -> None:
    for one in (photo, photo[..., 0], torch.from_numpy(photo)):
        with pytest.raises(ValueError, match=r"shape \(20, 30.* is not a list of images"):
            list(each_image(one))
    assert (
        len(list(each_image(photo[None]))) == len(list(each_image(list(photo[..., 0][None])))) == 1
    )


def test_what_is_no_list_is_neither_empty_nor_a_list_of_its_parts(folder: Path) -> None:
    """The bytes of a file would be numbers, an open file lines, and a mapping its keys."""
    path = folder / "a.png"
    with open(path, "rb") as file, Image.open(path) as image:
        for one in (path.read_bytes(), file, image, {"a": image}, {}, None, 5):
            with pytest.raises(UserError, match=f"expected, got {type(one).__name__}; give a list"):
                list(each_image(one))


def test_a_folder_of_videos_alone_is_no_empty_list(folder: Path) -> None:
    message = r"mp4: holds only videos; give each of them to track"
    with pytest.raises(UserError, match=message):
        list(each_image(f"{folder}/*.mp4"))
    (error,) = each_image([folder / "*.mp4"])
    with pytest.raises(UserError, match=message):
        to_array(error)


def test_a_missing_file_with_brackets_is_no_other_file(folder: Path) -> None:
    """Its name, read as a glob, would match `a.png`."""
    missing = folder / "[abc].png"
    for image in (missing, [str(missing)], [missing]):
        (entry,) = each_image(image)
        with pytest.raises(MissingFileError, match=r"\[abc\].png: no such file"):
            to_array(entry)
    assert not is_many(missing)
    assert [Path(path).name for path in each_image(str(missing))] == ["a.png", "b.png"]


def test_an_entry_without_images_costs_no_other(folder: Path) -> None:
    (folder / "empty").mkdir()
    first, error, wrong, last = each_image(
        [folder / "a.png", folder / "empty", f"{folder}/*.tif", folder / "b.png"]
    )
    assert (first, last) == (folder / "a.png", folder / "b.png")
    for entry in (error, wrong):
        with pytest.raises(UserError, match="empty|tif"):
            to_array(entry)


def test_a_generator_is_drawn_as_it_is_needed(photo: np.ndarray) -> None:
    drawn = []

    def photos() -> Iterator[np.ndarray]:
        for number in range(10):
            drawn.append(number)
            yield photo

    next(each_image(photos()))
    assert drawn == [0]


def test_what_a_generator_changes_after_an_image_changes_no_image(photo: np.ndarray) -> None:
    """Whatever holds the image is used again before anything reads the first of them."""
    photos = [photo, photo[::-1].copy(), photo[:, ::-1].copy()]
    films = io.BytesIO()
    first, *others = map(Image.fromarray, photos)
    first.save(films, "TIFF", save_all=True, append_images=others)

    def files() -> list[bytes]:
        contents = []
        for picture in (first, *others):
            file = io.BytesIO()
            picture.save(file, "BMP")
            contents.append(file.getvalue())
        return contents

    def buffers() -> Iterator[bytearray | memoryview]:
        buffer = bytearray(len(files()[0]))
        for number, content in enumerate(files()):
            buffer[:] = content
            yield buffer if number else memoryview(buffer)

    def open_files() -> Iterator[io.BytesIO]:
        file = io.BytesIO()
        for content in files():
            file.seek(0)
            file.write(content)
            yield file

    def canvases() -> Iterator[Image.Image]:
        canvas = Image.new("RGB", first.size)
        for picture in (first, *others):
            canvas.paste(picture)
            yield canvas

    for many in (ImageSequence.Iterator(Image.open(films)), buffers(), open_files(), canvases()):
        found = list(each_image(many))
        for entry, expected in zip(found, photos, strict=True):
            np.testing.assert_array_equal(to_array(entry), expected)


def test_a_file_that_nobody_else_moves_is_left_to_the_threads_that_read() -> None:
    file = OwnFile()  # reading it would fail
    assert list(each_image([file])) == [file]


def test_files_of_one_archive_are_read_in_their_turn(photo: np.ndarray) -> None:
    """A tar file gives other bytes, or ends early, if it moves on before a member is read."""
    buffer, picture = io.BytesIO(), io.BytesIO()
    Image.fromarray(photo).save(picture, "PNG")
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(4):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(picture.getvalue())
            archive.addfile(member, io.BytesIO(picture.getvalue()))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer, mode="r|") as archive:  # only forwards
        found = list(each_image(archive.extractfile(member) for member in archive))
    assert len(found) == 4
    for entry in found:
        np.testing.assert_array_equal(to_array(entry), photo)


def test_one_picture_twice_is_read_once(folder: Path, photo: np.ndarray) -> None:
    with Image.open(folder / "a.png") as picture:
        found = list(each_image([picture, picture]))
    for entry in found:
        np.testing.assert_array_equal(to_array(entry), photo)
        assert file_name(entry) == str(folder / "a.png")


def test_a_file_that_is_damaged_costs_no_other(folder: Path, photo: np.ndarray) -> None:
    good, bad = io.BytesIO((folder / "a.png").read_bytes()), io.BytesIO(b"no picture")
    first, error, last = each_image([good, bad, good])
    with pytest.raises(UserError, match="the image: not an image"):
        to_array(error)
    for entry in (first, last):
        np.testing.assert_array_equal(to_array(entry), photo)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images in this folder"):
        list(each_image(tmp_path))
