"""Find the images and videos that a command line names: files, folders and globs."""

import glob
import os
from pathlib import Path

from PIL import Image

from frozenseg.data.images import FORMATS
from frozenseg.data.notes import left_out, note
from frozenseg.errors import UserError

VIDEO_SUFFIXES = frozenset(".mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg .wmv".split())


def list_images(inputs: list[str]) -> list[Path]:
    """List the files that `inputs` name, each file once.

    An input is a file, a folder, of which the images and videos directly in it are taken, or a
    glob, in which `**` searches deeper. Folders and globs are listed in the order of their names.
    Raises `UserError` for an input that names nothing.
    """
    unique: dict[Path, Path] = {}
    for entry in inputs:
        for path in _expand(os.path.expanduser(entry)):
            unique.setdefault(path.resolve(), path)
    return list(unique.values())


def is_video(path: Path) -> bool:
    """Tell by its suffix whether a file is a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _expand(entry: str) -> list[Path]:
    path = Path(entry)
    if path.is_dir():
        return _images_of(path)
    if path.exists():  # asked before globs, because a name may hold brackets
        return [path]
    if glob.has_magic(entry):
        files = [Path(name) for name in sorted(glob.glob(entry, recursive=True))]
        files = [file for file in files if file.is_file()]
        if not files:
            raise UserError(f"{entry}: no file matches this pattern; correct it")
        return files
    raise UserError(f"{path}: no such file or folder; correct the path")


def _images_of(folder: Path) -> list[Path]:
    """List the images and videos of a folder; a warning counts other files that are not hidden."""
    entries = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
    files = [file for file in entries if not file.is_dir()]
    known = {*image_suffixes(), *VIDEO_SUFFIXES}
    images = [file for file in files if file.suffix.lower() in known and file.is_file()]
    others = [file.name for file in files if file not in images]
    line = f"; {left_out(others, len(files))}" if others else ""
    if not images:
        raise UserError(f"{folder}: no images in this folder{line}; save them as PNG or JPEG")
    if others:
        note(f"{folder}{line.replace(';', ':', 1)}")
    if len(files) < len(entries):
        note(f"{folder}: {len(entries) - len(files)} folders in it are not searched")
    return images


def image_suffixes() -> list[str]:
    """List the suffixes of the formats that are read, with their dots."""
    known = {*FORMATS, "MPO"}  # Pillow opens MPO as JPEG
    return [end for end, name in Image.registered_extensions().items() if name in known]
