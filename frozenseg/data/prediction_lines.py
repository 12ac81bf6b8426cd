"""Write predictions as they are made, one line of JSON per image, and resume a stopped run.

The first line of a file says how its predictions were made; a run with other settings is refused.
Each image adds a line {"input", "image", "panoptic", "instances", "note"}. Each frame of a video
does too, with "tracks" if the video is tracked. A line {"input", "frames"} after its frames says
that a video is complete, with "loss" if a part of it could not be read. Between the frames there
are lines {"input", "begun", "tracker"}, from which a stopped run resumes. These two kinds of lines,
and those of images, hold the state of the file in "file"; older versions wrote none. If a run is
divided into parts, a line {"names"} before the inputs of a part holds the names of their results.
The last line of a run that has done all its inputs is {"end": true}.
"""

import itertools
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from frozenseg.data.coco_records import instance_records, segment_record
from frozenseg.data.file_states import FileState
from frozenseg.errors import UserError, WriteError
from frozenseg.files import atomic_path, json_text, writing
from frozenseg.structures import InstanceResult, PanopticResult

FORMAT = 1
PANOPTIC = "panoptic"  # the folder of the label maps, beside the lines
NAME = re.compile(r"lines(?:_(\d+)_of_(\d+))?\.jsonl")


class Part(NamedTuple):
    """One of the `total` parts into which a run is divided; `number` counts them from 1."""

    number: int
    total: int

    @property
    def file_name(self) -> str:
        """The name of the file of lines of this part."""
        return "lines.jsonl" if self.total == 1 else f"lines_{self.number}_of_{self.total}.jsonl"

    def has(self, name: str) -> bool:
        """Tell whether an input belongs to this part, which depends only on its name."""
        return zlib.crc32(name.encode("utf-8", "surrogateescape")) % self.total == self.number - 1


WHOLE = Part(1, 1)


def as_text(name: str) -> str:
    """Return a file name as valid UTF-8 text; different names give different texts.

    A byte that is not valid UTF-8 is written like `\\xff`, and a backslash that would look like the
    beginning of such a byte is written as `\\x5c`.
    """
    plain = re.sub(r"\\(?=x[0-9a-f]{2})", r"\\x5c", name)
    return plain.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Header(NamedTuple):
    """How predictions were made.

    categories: the classes in COCO's format, see `coco_records.categories_of`.
    settings: the settings, by name, on which the results depend besides the vocabulary.
    root: the folder to which the names of images are relative.
    """

    categories: list[dict[str, Any]]
    settings: dict[str, Any]
    root: str


class Begun(NamedTuple):
    """A video that a stopped run has processed only in part.

    source: the name of the input.
    name: the name of its results.
    frames: the number of frames that are done.
    tracker: the state of the tracker after these frames, or None.
    start: the byte where its first line begins.
    """

    source: str
    name: str
    frames: int
    tracker: dict[str, Any] | None
    start: int


class PredictionLines:
    """The file of lines of one run, or of one part of a run.

    An existing file is continued: `done` holds the inputs that it has, and `begun` the video that
    it has only in part. A last line that is cut off is removed, as are frames after the last line
    from which a run can resume. Memory does not grow with the predictions. Always call `close` at
    the end. Only one process at a time may write.
    """

    def __init__(
        self, folder: Path, header: Header, *, part: Part = WHOLE, overwrite: bool = False
    ) -> None:
        """Open the file, or raise `UserError` if the folder holds predictions of another kind.

        overwrite: whether earlier predictions are replaced instead, see `remove_lines`.
        """
        self.path, self.part = folder / part.file_name, part
        self.continued = bool(line_files(folder))  # False: the folder has no lines of earlier runs
        self.done: dict[str, str] = {}  # inputs, and the names of their results without suffixes
        self.losses: dict[str, str] = {}  # incompletely read inputs, and what was lost
        self.frames: dict[str, int] = {}  # the videos in `done`, and how many frames each has
        self.files: dict[str, FileState] = {}  # the files of `done` and `begun`, as they were then
        self.tracked = False  # whether there is a tracked video
        self.begun: Begun | None = None
        self.ended = False
        self._claimed: dict[str, str] = {}  # inputs of this part, and the names of their results
        self._video: int | None = None  # the byte where the first line of the current video begins
        with writing(self.path):
            folder.mkdir(parents=True, exist_ok=True)
        if not overwrite:
            header = check_header(folder, header, part)
        self.root = Path(header.root)
        with writing(self.path):
            # Unbuffered, so that a line that did not fit on a full disk is not kept and written
            # together with the next one.
            self._file = open(self.path, "ab", buffering=0)
        if overwrite:
            remove_lines(folder, part)
        self._kept_end = self._read()  # the byte up to which a later run keeps the file
        with writing(self.path):
            self._file.truncate(self._kept_end)
        if not self._kept_end:
            self._append({"format": FORMAT, **header._asdict()})
            self._kept_end = self._file.tell()

    def add(
        self,
        *,
        source: str,
        file_name: str,
        panoptic_file: str,
        panoptic: PanopticResult,
        instances: InstanceResult | None = None,
        note: str | None = None,
        time: float | None = None,
        tracks: list[dict[str, Any]] | None = None,
        file: FileState | None = None,
    ) -> None:
        """Add an image, or a frame of a video; after its last frame, call `end_video`.

        source: the name of the input: equal to `file_name`, or the name of the video of a frame.
        file_name: the name of the image. panoptic_file: the name of its PNG.
        note: a warning for readers of the results, e.g. that the weights are random.
        time: the time of a frame in its video, in seconds. tracks: the tracked things of a frame,
            see `coco_records.track_records`. file: the state of the file of an image.
        """
        height, width = panoptic.ids.shape
        image = {"file_name": file_name, "height": height, "width": width}
        if source != file_name and self._video is None:
            self._video = self._kept_end
        self._append(
            {
                "input": source,
                "image": image if time is None else {**image, "time": time},
                "panoptic": {
                    "file_name": panoptic_file,
                    "segments_info": [segment_record(segment) for segment in panoptic.segments],
                },
                "instances": [] if instances is None else instance_records(instances),
                "note": note,
                **({} if tracks is None else {"tracks": tracks}),
                **_about(file),
            }
        )
        if source == file_name:
            self._kept_end = self._file.tell()

    def end_video(
        self, source: str, frames: int, loss: str = "", file: FileState | None = None
    ) -> None:
        """Record that all frames of a video were added. loss: what could not be read, or ""."""
        about = {**({"loss": loss} if loss else {}), **_about(file)}
        self._append({"input": source, "frames": frames, **about})
        self._kept_end, self._video, self.begun = self._file.tell(), None, None

    def mark(
        self,
        source: str,
        frames: int,
        tracker: dict[str, Any] | None,
        file: FileState | None = None,
    ) -> None:
        """Record a point from which a stopped run can resume a video.

        frames: how many frames have been added. tracker: the state of the tracker after them.
        """
        self._append({"input": source, "begun": frames, "tracker": tracker, **_about(file)})
        self._kept_end = self._file.tell()

    def frames_begun(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of the frames of `begun`."""
        assert self.begun is not None, "call this only if a part of a video is done"
        lines = (entry for entry, _ in _entries(self.path, self.begun.start) if "image" in entry)
        return itertools.islice(lines, self.begun.frames)

    def drop_video(self) -> None:
        """Remove the frames of a video that cannot be finished."""
        self._kept_end = self._kept_end if self._video is None else self._video
        self._file.truncate(self._kept_end)
        self.begun = self._video = None

    def forget(self, sources: set[str]) -> None:
        """Remove the lines of inputs that are to be made again."""
        self._file.close()
        with (
            atomic_path(self.path) as temporary,
            open(self.path, "rb") as before,
            open(temporary, "wb") as after,
        ):
            for entry, size in _entries(self.path):
                line = before.read(size)
                if entry.get("input") not in sources:
                    after.write(line)
        for source in sources:
            for found in (self.done, self.losses, self.frames, self.files):
                found.pop(source, None)
        self.begun = self._video = None
        self._kept_end = self._read()
        with writing(self.path):
            self._file = open(self.path, "ab", buffering=0)

    def claim(self, names: dict[str, str]) -> None:
        """Tell the other parts which names the results of the inputs will have.

        Inputs may be added between the starts of two parts; without this, two results could get the
        same name.
        """
        new = dict(names.items() - self._claimed.items())
        if self.part.total > 1 and new:
            ended = self.ended
            self._append({"names": new})
            if ended:  # the part stays ended even if none of the new inputs can be done
                self.end()
            self._kept_end = self._file.tell()

    def others(self) -> dict[str, str]:
        """Return the inputs of other parts, done or not, and the names of their results."""
        files = line_files(self.path.parent).items()
        found = (names_in(path) for part, path in files if part != self.part)
        return {source: name for names in found for source, name in names.items()}

    def end(self) -> None:
        """Record that all inputs of the run are done."""
        self._append({"end": True})
        self.ended = True

    def is_empty(self) -> bool:
        """Tell whether the file has no image yet."""
        return next(images_of(self.path), None) is None

    def close(self) -> None:
        """Close the file, and remove it if it has no image.

        Even without an image it is kept if its part has ended, or if there are label maps beside
        it, because it shows that they are results of FrozenSeg.
        """
        self._file.close()
        if not self.ended and self.is_empty() and not (self.path.parent / PANOPTIC).exists():
            self.path.unlink(missing_ok=True)

    def _append(self, entry: dict[str, Any]) -> None:
        """Append a complete line, or leave the file as it was."""
        line = memoryview((json_text(entry) + "\n").encode("ascii"))
        before = self._file.seek(0, 2)
        try:
            with writing(self.path):
                while line:
                    line = line[self._file.write(line) :]
        except WriteError:
            self._file.truncate(before)
            raise

    def _read(self) -> int:
        """Restore the state from the lines; return the byte up to which they are kept.

        Lines are kept up to the last complete input, or the last `mark` inside a video.
        """
        png, kept_end, position = "", 0, 0
        for entry, size in _entries(self.path):
            begin, position = position, position + size
            self.ended = "end" in entry
            self.tracked |= "tracks" in entry
            self._claimed.update(entry.get("names", {}))
            if "image" in entry:
                png = entry["panoptic"]["file_name"]
                if entry["image"]["file_name"] != entry["input"]:
                    self._video = begin if self._video is None else self._video
                    continue  # a video is complete only with the line that follows its frames
                self.done[entry["input"]] = png.removesuffix(".png")
            elif "begun" in entry and self._video is not None:
                source, frames, tracker = entry["input"], entry["begun"], entry["tracker"]
                name = png.rpartition("/")[0]
                self.begun = Begun(source, name, frames, tracker, self._video)
            elif "frames" in entry:
                self.done[entry["input"]] = png.rpartition("/")[0]
                self.frames[entry["input"]] = entry["frames"]
                if loss := entry.get("loss"):
                    self.losses[entry["input"]] = loss
                self.begun = self._video = None
            if file := entry.get("file"):
                self.files[entry["input"]] = FileState(**file)
            kept_end = position
        if self.begun is None:
            self._video = None
        return kept_end


def line_files(folder: Path) -> dict[Part, Path]:
    """Return the files of lines in a folder, by the part that wrote each."""
    found = {}
    for path in folder.glob("lines*.jsonl"):
        if match := NAME.fullmatch(path.name):
            found[Part(int(match[1] or 1), int(match[2] or 1))] = path
    return dict(sorted(found.items()))


def remove_lines(folder: Path, part: Part) -> None:
    """Remove what a new run replaces: its lines, and files of runs with another number of parts.

    Its own file is emptied, not deleted, so that even a kill leaves no results without a file of
    lines beside them.
    """
    for other, path in line_files(folder).items():
        if other == part:
            os.truncate(path, 0)
        elif other.total != part.total:
            path.unlink()


def check_header(folder: Path, header: Header, part: Part) -> Header:
    """Return the header of the predictions in a folder, or `header` where there are none.

    Raises `UserError` if they were made with other settings, or by another number of parts.
    """
    for other, path in line_files(folder).items():
        found = read_header(path)
        if found is None:
            continue
        differences = list(_differences(found, header))
        if other.total != part.total:
            differences.append(f"{other.total} parts, now {part.total}")
        if differences:
            raise UserError(
                f"{folder}: holds predictions made with other settings ({'; '.join(differences)}); "
                "choose another folder, or replace them with --overwrite"
            )
        header = found
    return header


def read_header(path: Path) -> Header | None:
    """Return the header in the first line of a file; None if a killed run has not completed it."""
    first = next(_entries(path), None)
    if first is None:
        return None
    if first[0].get("format") != FORMAT or not first[0].keys() >= {*Header._fields}:
        raise UserError(f"{path}: was written by another version; replace it with --overwrite")
    return Header(*(first[0][name] for name in Header._fields))


def images_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of images and frames."""
    return (entry for entry, _ in _entries(path) if "image" in entry)


def names_in(path: Path) -> dict[str, str]:
    """Return the inputs in a file, done or not, and the names of their results."""
    names: dict[str, str] = {}
    for entry, _ in _entries(path):
        names.update(entry.get("names", {}))
        if "image" in entry:
            png = entry["panoptic"]["file_name"]
            is_frame = entry["image"]["file_name"] != entry["input"]
            names[entry["input"]] = png.rpartition("/")[0] if is_frame else png.removesuffix(".png")
    return names


def lines_of_frames(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield, for each tracked frame, the byte where its line begins, and the line."""
    position = 0
    for entry, size in _entries(path):
        if "tracks" in entry:
            yield position, entry
        position += size


def line_at(path: Path, place: int) -> dict[str, Any]:
    """Return the line that begins at the byte `place`."""
    return next(_entries(path, place))[0]


def has_ended(path: Path) -> bool:
    """Tell whether the last line of a file says that all inputs are done."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 100))
        return file.read().endswith(b'\n{"end": true}\n')


def _entries(path: Path, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the complete lines of a file with their sizes in bytes; omit a truncated last line.

    start: the byte where the first of them begins.
    """
    with open(path, "rb") as file:
        file.seek(start)
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield dict(json.loads(line)), len(line)
            except (ValueError, TypeError):
                raise UserError(
                    f"{path}: line {number} is damaged; start again with --overwrite"
                ) from None


def _about(file: FileState | None) -> dict[str, Any]:
    return {} if file is None else {"file": file._asdict()}


def _differences(before: Header, now: Header) -> Iterator[str]:
    if before.categories != json.loads(json_text(now.categories)):
        yield "another vocabulary"
    settings = json.loads(json_text(now.settings))
    for name in sorted(before.settings.keys() | settings.keys()):
        old, new = before.settings.get(name, "default"), settings.get(name, "default")
        if old != new:
            yield f"{name} {old}, now {new}"
