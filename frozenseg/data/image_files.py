"""Find the images and videos that a command line names: files, folders and globs."""

import glob
import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from frozenseg.data.images import HEIF, HOW_HEIF, readable_formats, reads_heif
from frozenseg.errors import UserError
from frozenseg.notes import left_out, note

VIDEO_SUFFIXES = frozenset(
    ".mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg .wmv .3gp .3g2 .ts .mts .m2ts .flv .ogv .asf "
    ".mxf".split()
)
# Source files of TypeScript have these suffixes too. In a folder, a file with such a suffix counts
# as a video only if its first bytes hold a zero: text has no zero bytes, a transport stream many.
ALSO_TEXT = (".ts", ".mts")


def list_images(
    inputs: list[str],
    *,
    recursive: bool = False,
    leave_out: Path | None = None,
    keep: Callable[[str, list[Path]], list[Path]] | None = None,
) -> list[Path]:
    """List the files that `inputs` name, each file once.

    An input is a file; a folder, which stands for the images and videos directly in it; or a glob,
    in which `**` matches folders of any depth. The files of a folder or glob are sorted by name. A
    link to a file counts as a file. Links to folders do not make another file of one that is there
    already, because they may lead in circles, in which globs follow them.
    Raises `UserError` for an input that names nothing.

    recursive: whether the folders inside a folder are searched too, except hidden ones.
    leave_out: the folder of results. Files in it are left out, unless an input names a file or a
        folder in it. An input that has no other files is refused.
    keep: a function that takes each folder or glob and its files, and returns the files to keep.
    """
    if "" in inputs:  # it would stand for the working folder
        raise UserError("the name of an input is empty (an unset variable?); give one, or .")
    unique: dict[Path, Path] = {}
    for entry in map(os.path.expanduser, inputs):
        found = [(_place(path), path) for path in _expand(entry, recursive)]
        if leave_out is not None and not _names_a_part(entry, leave_out):
            hidden = leave_out.resolve()
            found = [pair for pair in found if not pair[0].is_relative_to(hidden)]
            if not found:
                raise UserError(
                    f"{entry}: lies in the folder of results, {leave_out}, which is not searched "
                    "for images; choose another --output"
                )
        if keep is not None and not Path(entry).is_file():
            found = [(_place(path), path) for path in keep(entry, [path for _, path in found])]
        for whole, path in found:
            unique.setdefault(whole, path)
    return list(unique.values())


def _place(path: Path) -> Path:
    """Return the path without links to folders. If the file itself is a link, it stays one."""
    return path.parent.resolve() / path.name


def _names_a_part(entry: str, folder: Path) -> bool:
    """Tell whether an input names a file or a folder inside `folder`, or files in it by a glob."""
    named, whole = Path(root_of([entry])).resolve(), folder.resolve()
    return named.is_relative_to(whole) and (named != whole or Path(entry).is_file())


def root_of(inputs: list[str]) -> Path:
    """Return the deepest folder that holds all inputs: folders, files, and matches of globs."""
    folders = []
    for entry in map(os.path.expanduser, inputs):
        path = Path(entry)
        while glob.has_magic(str(path)) and not path.exists():
            path = path.parent
        folders.append(os.path.abspath(path if path.is_dir() else path.parent))
    return Path(os.path.commonpath(folders))


def is_video(path: Path) -> bool:
    """Tell by its suffix whether a file is a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _expand(entry: str, recursive: bool) -> list[Path]:
    path = Path(entry)
    if path.is_dir():
        return _images_of(path, recursive)
    if path.exists():  # checked before globs, because a name may hold brackets
        return [path]
    if glob.has_magic(entry):
        files = [Path(name) for name in sorted(glob.glob(entry, recursive=True))]
        files = [file for file in files if file.is_file()]
        if not files:
            raise UserError(f"{entry}: no file matches this pattern; correct it")
        return files
    raise UserError(f"{path}: no such file or folder; correct the path")


def _images_of(folder: Path, recursive: bool) -> list[Path]:
    """List the images and videos of a folder; a warning counts other files that are not hidden."""
    files, folders = files_below(folder, recursive)
    known = {*image_suffixes(), *VIDEO_SUFFIXES}
    images = [
        file
        for file in files
        if file.suffix.lower() in known and file.is_file() and not _is_source(file)
    ]
    others = [file.name for file in set(files).difference(images)]
    line = f"; {left_out(others, len(files))}" if others else ""
    if not reads_heif() and any(name.lower().endswith(HEIF) for name in others):
        line += f" ({HOW_HEIF})"
    why = "links to folders in it are not followed; name them too"
    if not recursive:
        why = "folders in it are not searched without --recursive"
    deeper = f"{folders} {why}" if folders else ""
    if not images:
        deeper = f"; {deeper}" if deeper else ""
        raise UserError(
            f"{folder}: no images in this folder{line}{deeper}; save them as PNG or JPEG"
        )
    if others:
        note(f"{folder}{line.replace(';', ':', 1)}")
    if deeper:
        note(f"{folder}: {deeper}")
    return images


def _is_source(file: Path) -> bool:
    """Tell whether a file is text rather than a video, see `ALSO_TEXT`."""
    if file.suffix.lower() not in ALSO_TEXT:
        return False
    try:
        with open(file, "rb") as opened:
            return b"\0" not in opened.read(4096)
    except OSError:
        return False  # the error is reported when the file is read


def files_below(folder: Path, recursive: bool) -> tuple[list[Path], int]:
    """Return the files below a folder that are not hidden, and how many folders are not searched.

    These are all folders in it or, if `recursive`, the links to folders, which may lead in circles.
    """
    files: list[Path] = []
    links = 0
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
        if not recursive:
            return files, len(folders)
        links += sum(os.path.islink(os.path.join(parent, name)) for name in folders)
    return files, links


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions")


def image_suffixes() -> list[str]:
    """List the file suffixes of all readable formats, with their dots."""
    known = {*readable_formats(), "MPO"}  # Pillow opens MPO as JPEG
    return [end for end, name in Image.registered_extensions().items() if name in known]
