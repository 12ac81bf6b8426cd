"""Write the tracks of videos in the formats of YouTube-VIS and VIPSeg.

`write_video_files` makes them from the prediction lines (`frozenseg.data.prediction_lines`). Its
memory grows by some bytes for each thing in each frame, but masks are never held all at once.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frozenseg.data.prediction_lines import (
    Header,
    as_text,
    line_at,
    line_files,
    lines_of_frames,
)
from frozenseg.files import write_json_pieces, writing

YOUTUBE_VIS, VIPSEG = "youtube_vis.json", "video_panoptic.json"


@dataclass
class _Track:
    """The track of a thing.

    category: the category in its last frame, which the votes of all frames have decided.
    frames: the numbers of its frames, from 0.
    places: the bytes where the lines of these frames begin.
    """

    category: int = 0
    score: float = 0.0
    frames: array = field(default_factory=lambda: array("L"))
    places: array = field(default_factory=lambda: array("Q"))


@dataclass
class _Video:
    """A tracked video.

    name: the name of its folder of PNGs. places: the bytes where the lines of its frames begin.
    """

    number: int
    name: str
    path: Path
    width: int
    height: int
    places: array = field(default_factory=lambda: array("Q"))
    tracks: dict[int, _Track] = field(default_factory=dict)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of its frames."""
        return (line_at(self.path, place) for place in self.places)


def write_video_files(folder: Path, header: Header) -> None:
    """Write `youtube_vis.json` and `video_panoptic.json` of the tracked videos.

    If no video is tracked, the files of an earlier run are removed. YouTube-VIS has one annotation
    for each thing, with a mask or null for each frame. VIPSeg has the segments of each frame; their
    ids are the ids in the PNGs in `panoptic/NAME`, and those of the tracks. In both formats a track
    has one category, that of its last frame.
    """
    videos = list(_tracked(folder))
    if not videos:
        for path in (folder / YOUTUBE_VIS, folder / VIPSEG):
            with writing(path):
                path.unlink(missing_ok=True)
        return
    info = {"description": "predictions of frozenseg", "root": as_text(header.root)}
    head = {"info": info, "categories": header.categories}
    for name, content in ((YOUTUBE_VIS, _youtube_vis), (VIPSEG, _vipseg)):
        write_json_pieces(folder / name, {**head, **content(videos)})


def _tracked(folder: Path) -> Iterator[_Video]:
    """Yield the tracked videos with what was found in each."""
    number = 0
    for path in line_files(folder).values():
        video: _Video | None = None
        for place, line in lines_of_frames(path):
            name = line["panoptic"]["file_name"].rpartition("/")[0]
            if video is None or video.name != name:
                if video is not None:
                    yield video
                number += 1
                image = line["image"]
                video = _Video(number, name, path, image["width"], image["height"])
            for found in line["tracks"]:
                track = video.tracks.setdefault(found["track_id"], _Track())
                track.category = found["category_id"]
                track.score += found["score"] or 0.0
                track.frames.append(len(video.places))
                track.places.append(place)
            video.places.append(place)
        if video is not None:
            yield video


def _youtube_vis(videos: list[_Video]) -> dict[str, Iterator[Any]]:
    return {
        "videos": (
            {
                "id": video.number,
                "name": video.name,
                "width": video.width,
                "height": video.height,
                "length": len(video.places),
                "file_names": (line["image"]["file_name"] for line in video.lines()),
            }
            for video in videos
        ),
        "annotations": (
            {
                "id": number,
                "video_id": video.number,
                "category_id": track.category,
                "track_id": track_id,
                "score": track.score / len(track.frames),
                "iscrowd": 0,
                "segmentations": _masks(video, track_id, track),
            }
            for number, (video, track_id, track) in enumerate(
                ((v, track_id, track) for v in videos for track_id, track in v.tracks.items()), 1
            )
        ),
    }


def _masks(video: _Video, track_id: int, track: _Track) -> Iterator[dict[str, Any] | None]:
    """Yield the mask of a track in each frame, or None."""
    seen = zip(track.frames, track.places, strict=True)
    frame, place = next(seen)
    for number in range(len(video.places)):
        if number != frame:
            yield None
            continue
        found = line_at(video.path, place)["tracks"]
        yield next(entry["segmentation"] for entry in found if entry["track_id"] == track_id)
        frame, place = next(seen, (-1, 0))


def _vipseg(videos: list[_Video]) -> dict[str, Iterator[Any]]:
    return {
        "videos": (
            {
                "video_id": video.name,
                "images": ({"id": _stem(line), **line["image"]} for line in video.lines()),
            }
            for video in videos
        ),
        "annotations": (
            {
                "video_id": video.name,
                "annotations": (
                    {
                        "image_id": _stem(line),
                        "file_name": f"{_stem(line)}.png",
                        "segments_info": _segments(video, line),
                    }
                    for line in video.lines()
                ),
            }
            for video in videos
        ),
    }


def _stem(line: dict[str, Any]) -> str:
    return Path(line["panoptic"]["file_name"]).stem


def _segments(video: _Video, line: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the segments of a frame; things have the category of their track."""
    return [
        {**row, "category_id": video.tracks[row["id"]].category} if row["isthing"] else row
        for row in line["panoptic"]["segments_info"]
    ]
