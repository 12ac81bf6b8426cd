"""List the files of datasets in their folders, and check that listed files exist."""

import os
from pathlib import Path

from frozenseg.errors import UserError
from frozenseg.notes import left_out, note


def files_by_stem(folder: str | Path, suffixes: tuple[str, ...], what: str) -> dict[str, Path]:
    """Return {name without suffix: path} of the files with one of these suffixes, sorted by name.

    Hidden files, such as those that a killed run leaves, are ignored, and a warning counts other
    files that are left out. Two files with one stem are refused, because either could be meant.
    what: what the files are, e.g. "images", for messages.
    """
    names = sorted(name for name in file_names(folder, what) if not name.startswith("."))
    matching = [name for name in names if name.lower().endswith(suffixes)]
    if matching and len(matching) < len(names):
        note(f"{folder}: {left_out(set(names).difference(matching), len(names))}")
    by_stem: dict[str, Path] = {}
    for name in matching:
        path = Path(folder, name)
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise UserError(
                f"{path}: {other.name} has the same name before the dot; keep one of them in this "
                f"folder of {what}"
            )
    return by_stem


def require_files(paths: list[str], what: str, source: Path) -> None:
    """Check that all `paths` exist, with one directory listing per folder (not one call per file).

    what: what the files are, e.g. "images". source: the file or folder that lists them. Both only
    appear in the message.
    """
    names: dict[str, set[str]] = {}
    missing: list[str] = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in names:
            names[folder] = file_names(folder, what)
        if name not in names[folder]:
            missing.append(path)
    if missing:
        raise UserError(
            f"{missing[0]}: no such file; {len(missing)} of {len(paths)} {what} listed by {source} "
            "are missing: copy them there, or correct the list"
        )


def file_names(folder: str | Path, what: str) -> set[str]:
    """Return the names of the files in `folder`, which must exist."""
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no such folder ({what}); put the dataset there, or set "
            "$DETECTRON2_DATASETS to the folder that holds it"
        ) from None
    except NotADirectoryError:
        raise UserError(f"{folder}: is a file, a folder of {what} was expected") from None
    except PermissionError:
        raise UserError(f"{folder}: may not be read ({what}); change its permissions") from None
