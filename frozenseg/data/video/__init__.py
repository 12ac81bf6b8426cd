"""Read and write videos: through PyAV (extra `video`), or through OpenCV where that is missing.

- `frames`: a frame, and which frames are taken.
- `addresses`: names of cameras and streams.
- `reading`: a video file, a camera or a network stream. `with_pyav`, `with_opencv`: its decoders.
- `writing`: a film of drawn frames. `sound`: the sound that it keeps.
"""

from frozenseg.data.video.addresses import is_live, without_password
from frozenseg.data.video.frames import Frame, Selection
from frozenseg.data.video.reading import Video, read_video
from frozenseg.data.video.writing import CODECS, Append, video_writer

__all__ = [
    "CODECS",
    "Append",
    "Frame",
    "Selection",
    "Video",
    "is_live",
    "read_video",
    "video_writer",
    "without_password",
]
