"""What images a batch run finds, and that their bytes are read."""

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from frozenseg.batch.items import MISSING, Item, SourceLost, check_source, source_of
from frozenseg.batch.listing import list_items
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


def test_folders_globs_and_files_give_each_image_once(images: Path) -> None:
    assert names(images) == ALL
    assert names(images / "**" / "*.png", images, images / "00001.png") == ALL
    item = next(iter(list_items([str(images)])))
    assert item == Item(str(images / "00000.png"), "", 0, (images / "00000.png").stat().st_size)


def test_lists_name_files_beside_them(images: Path) -> None:
    lines = ["# of all", "00000.png", "", "deep/00002.png", "gone.png"]
    (images / "all.txt").write_text("\n".join(lines))
    table = pa.table({"path": ["00001.png", str(images / "00000.png")], "other": [1, 2]})
    parquet.write_table(table, images / "all.parquet")
    assert names(images / "all.txt") == ["00000.png", "00002.png", "gone.png"]
    assert names(images / "all.parquet") == ["00001.png", "00000.png"]
    *_, gone = list_items([str(images / "all.txt")])
    assert gone.size == MISSING
    with pytest.raises(MissingFileError, match="no such file when the manifest was made"):
        source_of(gone).read()
    parquet.write_table(pa.table({"name": ["a"]}), images / "odd.parquet")
    with pytest.raises(UserError, match="has the columns name; name one of them path"):
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
    with pytest.raises(SourceLost, match="cannot be reached any more"):
        source_of(found[0]).read()
    with pytest.raises(UserError, match="no such file or folder"):
        list(list_items(["memory://batch"]))


def test_what_is_no_input_is_one_line(images: Path) -> None:
    (images / "noise.tar").write_bytes(b"noise" * 300)
    for entry, line in {
        images / "none": "no such file or folder",
        images / "noise.tar": "no tar file, or a damaged or compressed one",
        "nowhere://x": "Protocol not known",
    }.items():
        with pytest.raises(UserError, match=line):
            names(entry)


def test_a_file_that_is_gone_with_its_folder_is_no_fault_of_the_image(images: Path) -> None:
    *_, item = list_items([str(images)])
    Path(item.path).rename(images / "deep" / "another.png")
    check_source(item)
    (images / "deep" / "another.png").unlink()
    for _ in range(2):  # a drive that was taken away may leave an empty folder, or none
        with pytest.raises(SourceLost, match="deep: cannot be reached .* bring it back and give"):
            check_source(item)
        shutil.rmtree(images / "deep", ignore_errors=True)
