"""What images a batch run finds, and that their bytes are read."""

import errno
import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from frozenseg.batch.items import MISSING, Item, SourceLost, check_source, source_of
from frozenseg.batch.listing import list_items
from frozenseg.data.images import UnreachableFile
from frozenseg.errors import MissingFileError, UserError
from tests.batch.runs import make_images

pa = pytest.importorskip("pyarrow", reason="pip install pyarrow")
parquet = pytest.importorskip("pyarrow.parquet", reason="pip install pyarrow")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = make_images(tmp_path / "in", 3)
    (folder / "deep").mkdir()
    (folder / "00002.png").rename(folder / "deep" / "00002.png")
    return folder


def names(*inputs: object) -> list[str]:
    return [Path(item.path).name for item in list_items([str(entry) for entry in inputs])]


ALL = ["00000.png", "00001.png", "00002.png"]


def test_an_empty_name_is_not_the_working_folder(images: Path, monkeypatch) -> None:
    monkeypatch.chdir(images)
    with pytest.raises(UserError, match="^the name of an input is empty"):
        names("")
    assert names(".") == ALL


def test_folders_globs_and_files_give_each_image_once(images: Path) -> None:
    assert names(images) == ALL
    assert names(images / "**" / "*.png", images, images / "00001.png") == ALL
    item = next(iter(list_items([str(images)])))
    found = (images / "00000.png").stat()
    assert item == Item(str(images / "00000.png"), "", 0, found.st_size, found.st_mtime_ns)


def test_links_to_folders_are_not_followed_and_said(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (images.parent / "drive").mkdir()
    (images / "00001.png").rename(images.parent / "drive" / "00001.png")
    (images / "deep" / "link").symlink_to(images.parent / "drive")
    assert names(images) == [ALL[0], ALL[2]]
    assert f"{images}: 1 links to folders in it are not followed; name them too" in caplog.text
    assert sorted(names(images, images / "deep" / "link")) == ALL


def test_lists_name_files_beside_them(images: Path) -> None:
    lines = ["# of all", "00000.png", "", "deep/00002.png", "gone.png"]
    (images / "all.txt").write_text("\n".join(lines))
    table = pa.table({"path": ["00001.png", str(images / "00000.png")], "other": [1, 2]})
    parquet.write_table(table, images / "all.parquet")
    assert names(images / "all.txt") == ["00000.png", "00002.png", "gone.png"]
    assert names(images / "all.parquet") == ["00001.png", "00000.png"]
    *_, gone = list_items([str(images / "all.txt")])
    assert gone.size == MISSING
    with pytest.raises(MissingFileError, match="did not exist when the manifest was made"):
        source_of(gone).read()
    parquet.write_table(pa.table({"name": ["a"]}), images / "odd.parquet")
    with pytest.raises(
        UserError, match="has the columns name; rename the one with the paths to path"
    ):
        names(images / "odd.parquet")
    (images / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match="has no line that names an image"):
        names(images / "empty.txt")


def test_images_in_tar_files_and_stores_are_read_where_they_lie(images: Path) -> None:
    whole = (images / "00001.png").read_bytes()
    archive = images.parent / "shard-0.tar"
    with tarfile.open(archive, "w") as file:
        for path in sorted(images.glob("*.png")):
            file.add(path, f"./{path.name}")
        file.addfile(tarfile.TarInfo("00000.json"), io.BytesIO())
    first, second = list_items([str(images.parent / "*.tar")])
    assert second.path == f"{archive}/00001.png" and source_of(second).read() == whole

    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.pipe({"/batch/b.png": whole, "/batch/a.tar": archive.read_bytes(), "/batch/c.txt": b""})
    found = list(list_items(["memory://batch"]))
    assert [item.path.rpartition("batch/")[2] for item in found] == [
        "a.tar/00000.png",
        "a.tar/00001.png",
        "b.png",
    ]
    assert [source_of(item).read() for item in found[1:]] == [whole, whole]
    store.rm("/batch", recursive=True)
    with pytest.raises(SourceLost, match="can no longer be reached"):
        source_of(found[0]).read()
    with pytest.raises(UserError, match="no such file or folder"):
        list(list_items(["memory://batch"]))


def test_names_in_lists_are_those_of_the_folder(images: Path) -> None:
    (images / "list.txt").write_text(".//00000.png\n./deep/./00002.png\n00000.png\n")
    assert names(images / "list.txt", images) == ["00000.png", "00002.png", "00001.png"]


def test_hidden_files_are_left_out_as_in_a_folder(images: Path) -> None:
    hidden = ("._00000.png", ".cache/00000.png")
    archive = images.parent / "mac.tar"
    with tarfile.open(archive, "w") as file:
        for name in ("./00000.png", *hidden):
            file.add(images / "00000.png", name)
    assert names(archive) == ["00000.png"]
    store = pytest.importorskip("fsspec").filesystem("memory")
    store.pipe({f"/mac/.box/{name}": b"image" for name in ("00000.png", *hidden)})
    assert names("memory://mac/.box") == ["00000.png"]
    store.rm("/mac", recursive=True)


def test_of_members_with_one_name_the_last_counts_as_where_they_are_unpacked(images: Path) -> None:
    archive = images.parent / "appended.tar"
    versions = {"a.png": b"first", "./b.png": b"other", "./a.png": b"second"}
    with tarfile.open(archive, "w") as file:
        for name, content in versions.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    found = {Path(item.path).name: source_of(item).read() for item in list_items([str(archive)])}
    assert names(archive) == ["a.png", "b.png"]
    assert found == {"a.png": b"second", "b.png": b"other"}


def test_links_in_a_tar_file_lead_to_its_files(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where it is unpacked, except for links that lead out of it or nowhere."""
    whole = (images / "00000.png").read_bytes()
    os.link(images / "00000.png", images / "hard.png")
    links = {"soft.png": "hard.png", "deep/up.png": "../soft.png", "deep/circle.png": "circle.png"}
    links |= {"out.png": "/etc/a.png", "away.png": "../00000.png", "deep/folder.png": "."}
    for name, target in links.items():
        (images / name).symlink_to(target)
    archive = images.parent / "links.tar"
    with tarfile.open(archive, "w") as file:
        for path in sorted(images.rglob("*.png")):
            file.add(path, f"./{path.relative_to(images)}")
    found = {item.path.removeprefix(f"{archive}/"): item for item in list_items([str(archive)])}
    same = ["00000.png", "deep/up.png", "hard.png", "soft.png"]
    assert sorted(found) == sorted([*same, "00001.png", "deep/00002.png"])
    assert all(source_of(found[name]).read() == whole for name in same)
    assert (
        f"{archive}: 4 links to files that are not in it, or sparse files, are left out"
        in caplog.text
    )
    with tarfile.open(archive, "w") as file:
        file.add(images / "out.png", "out.png")
    with pytest.raises(UserError, match="this tar file contains no image"):
        names(archive)


def test_sparse_files_of_a_tar_file_are_left_out(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """GNU tar stores them in pieces, so that their bytes cannot be read as a whole."""
    archive = images.parent / "sparse.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as file:
        file.add(images / "00000.png", "00000.png")
        member = tarfile.TarInfo("holes.bmp")
        member.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "holes.bmp",
            "GNU.sparse.realsize": str(1 << 20),
        }
        pieces = b"1\n1048573\n3\n".ljust(tarfile.BLOCKSIZE, b"\0") + b"end"  # one of 3 bytes
        member.size = len(pieces)
        file.addfile(member, io.BytesIO(pieces))
    with tarfile.open(archive) as file:
        assert [member.issparse() for member in file] == [False, True]
        assert file.extractfile("holes.bmp").read() == bytes((1 << 20) - 3) + b"end"
    assert names(archive) == ["00000.png"]
    assert "1 links to files that are not in it, or sparse files, are left out" in caplog.text


def test_lines_of_a_list_end_at_line_ends_only(images: Path) -> None:
    odd = ["a\u2028b.png", "c\x85d.png", "e\x0cf.png"]
    for name in odd:
        shutil.copy(images / "00000.png", images / name)
    listed = images.parent / "odd.txt"
    listed.write_bytes("\r\n".join(str(images / name) for name in odd).encode())
    assert [Path(item.path).name for item in list_items([str(listed)])] == odd


def test_a_chain_of_addresses_is_refused(images: Path) -> None:
    pytest.importorskip("fsspec")
    chain = f"zip://*.png::{images / 'all.zip'}"
    (images / "list.txt").write_text(chain)
    for entry in (chain, images / "list.txt"):
        with pytest.raises(UserError, match=r"all.zip: a chain of URLs; give"):
            names(entry)


def test_a_member_whose_name_is_no_text_is_left_out_and_said(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = images / "old.tar"
    with tarfile.open(archive, "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as file:
        for name in ("a.png", "caf\xe9.png"):
            file.add(images / "00000.png", name)
    assert names(archive) == ["a.png"]
    assert "old.tar/caf" in caplog.text and "because its name is not valid UTF-8" in caplog.text


def test_what_a_store_raises_is_one_line_with_the_address(images: Path) -> None:
    fsspec = pytest.importorskip("fsspec")

    class Locked(fsspec.AbstractFileSystem):
        """Raises what is no OSError, as S3 does without credentials."""

        protocol = "locked"

        def info(self, path: str, **options: object) -> dict[str, object]:
            raise RuntimeError("Unable to locate\ncredentials")

        isdir = open = info

    class Closed(fsspec.AbstractFileSystem):
        """Cannot even be made, as Google's without credentials."""

        def __init__(self, **options: object) -> None:
            raise RuntimeError("Unable to locate credentials")

    fsspec.register_implementation("locked", Locked, clobber=True)
    fsspec.register_implementation("closed", Closed, clobber=True)
    for address in ("locked://box/a.png", "locked://box/a.tar", "closed://box/a.png"):
        (images / "list.txt").write_text(address)
        for entry in (images / "list.txt", address):
            with pytest.raises(UserError, match=f"^{address}: cannot be read .Unable to locate cr"):
                names(entry)
    (images / "list.txt").write_text("nowhere://x/a.png")
    with pytest.raises(UserError, match="^nowhere://x/a.png: Protocol not known"):
        names(images / "list.txt")


def test_what_is_no_input_is_one_line(images: Path) -> None:
    (images / "noise.tar").write_bytes(b"noise" * 300)
    for entry, line in {
        images / "none": "no such file or folder",
        images / "noise.tar": "not a tar file, or damaged or compressed",
        "nowhere://x": "Protocol not known",
    }.items():
        with pytest.raises(UserError, match=line):
            names(entry)


def test_a_file_that_is_gone_with_its_folder_is_no_fault_of_the_image(images: Path) -> None:
    *_, item = list_items([str(images)])
    gone = MissingFileError("no such file")
    Path(item.path).rename(images / "deep" / "another.png")
    check_source(item, gone)
    (images / "deep" / "another.png").unlink()
    for _ in range(2):  # a drive that was taken away may leave an empty folder, or none
        with pytest.raises(SourceLost, match="deep: can no .* put any file there, and"):
            check_source(item, gone)
        shutil.rmtree(images / "deep", ignore_errors=True)
    (images / "deep").mkdir()
    (images / "deep" / "note").touch()  # as that line says for images that were deleted
    check_source(item, gone)


def test_a_drive_that_does_not_answer_is_no_fault_of_the_image(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, item = list_items([str(images)])
    damaged, answers = UserError("damaged image"), [errno.EACCES, errno.ENOTCONN]
    check_source(item, damaged)
    line = r"^a: cannot be reached; bring it back, and give the same command, which continues"
    with pytest.raises(SourceLost, match=line):
        check_source(item, UnreachableFile("a: cannot be reached; bring it back"))

    def scandir(folder: Path) -> object:
        number = answers.pop(0)
        raise OSError(number, os.strerror(number), str(folder))

    monkeypatch.setattr(os, "scandir", scandir)
    check_source(item, damaged)  # a folder that may not be listed, whose files may be read
    with pytest.raises(SourceLost, match="deep: can no longer be reached .Transport endpoint"):
        check_source(item, damaged)


def test_a_machine_without_the_package_of_a_store_blames_no_image() -> None:
    with pytest.raises(SourceLost, match="^nowhere://x/a.png: Protocol not known.* continues with"):
        source_of(Item("nowhere://x/a.png", size=3)).read()
