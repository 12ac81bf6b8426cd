"""The track of one thing: its expected position, its shape, and its class."""

import base64
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from frozenseg.structures import Segment

# If a thing shows less than the share COVERED of its usual area, it counts as partly covered: its
# shape and its speed stay as they were. The usual area decays, so that a thing may become smaller.
COVERED, DECAY = 0.6, 0.95
NEW_SPEED = 0.3  # weight of the latest motion in the speed; the previous speed has the rest


@dataclass
class Track:
    """A thing over time.

    id: from 1, the same for the entire video.
    mask: (h, w) bool, the shape of the thing when it was last seen uncovered.
    corner: (2,) float, the row and the column where the mask's top left pixel is expected now.
    speed: (2,) float, rows and columns per frame.
    area: usual number of pixels.
    missed: frames since the thing was last seen; 0: it was found in the latest frame.
    votes: for each class, the sum of the scores of this thing's segments of that class.
    names: the names of these classes.
    """

    id: int
    mask: np.ndarray
    corner: np.ndarray
    speed: np.ndarray
    area: float
    missed: int = 0
    votes: dict[int, float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, number: int, segment: Segment, ids: np.ndarray) -> "Track":
        """Begin a track with a segment of the map `ids` (H, W). number: the id of the track."""
        x0, y0, x1, y1 = segment.box
        mask = ids[y0:y1, x0:x1] == segment.id
        track = cls(number, mask, np.array([y0, x0], float), np.zeros(2), segment.area)
        track.vote(segment)
        return track

    @property
    def class_id(self) -> int:
        """The class with the most votes."""
        return max(self.votes, key=self.votes.__getitem__)

    def move(self) -> None:
        """Move the expected position on by one frame."""
        self.corner = self.corner + self.speed
        self.missed += 1

    @property
    def box(self) -> tuple[float, ...]:
        """The box where the mask is expected: (x0, y0, x1, y1), as in `Segment.box`."""
        (y, x), (height, width) = self.corner.tolist(), self.mask.shape
        return x, y, x + width, y + height

    def counts(self, index: np.ndarray, total: int) -> tuple[np.ndarray, int]:
        """Count the pixels of each segment that lie in the mask at its expected position, and all
        pixels of the mask that lie in the image.

        index: (H, W), the number of the segment at each pixel, 1 to `total`, or 0 for none.
        """
        y, x = np.rint(self.corner).astype(int)
        height, width = self.mask.shape
        top, left = max(0, -y), max(0, -x)
        window = index[y + top : max(0, y + height), x + left : max(0, x + width)]
        part = self.mask[top : top + window.shape[0], left : left + window.shape[1]]
        return np.bincount(window[part], minlength=total + 1)[1:], int(part.sum())

    def see(self, segment: Segment, ids: np.ndarray) -> None:
        """Continue the track with a segment of the map `ids`."""
        uncovered = segment.area >= COVERED * self.area
        self.area = max(segment.area, DECAY * self.area)
        if uncovered:
            x0, y0, x1, y1 = segment.box
            mask = ids[y0:y1, x0:x1] == segment.id
            center, side = np.array([y0 + y1, x0 + x1]) / 2, np.array(self.mask.shape) / 2
            begin = self.corner - self.speed * self.missed + side
            motion = (center - begin) / self.missed
            share = NEW_SPEED if self.speed.any() else 1.0
            self.speed = share * motion + (1 - share) * self.speed
            self.mask, self.corner = mask, np.array([y0, x0], float)
        self.missed = 0
        self.vote(segment)

    def vote(self, segment: Segment) -> None:
        """Add the score of a segment to the votes for its class; no score (NaN) counts as 1."""
        score = 1.0 if np.isnan(segment.score) else segment.score
        self.votes[segment.class_id] = self.votes.get(segment.class_id, 0.0) + score
        self.names[segment.class_id] = segment.name

    def state(self) -> dict[str, Any]:
        """Return a copy of the track's data that can be written as JSON."""
        bits = zlib.compress(np.packbits(self.mask).tobytes())
        return {
            **vars(self),
            "votes": dict(self.votes),
            "names": dict(self.names),
            "mask": [*self.mask.shape, base64.b64encode(bits).decode()],
            "corner": self.corner.tolist(),
            "speed": self.speed.tolist(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Track":
        """Return a track with the data that `state` returned."""
        height, width, text = state["mask"]
        bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
        mask = np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)
        numbered = {
            name: {int(key): value for key, value in state[name].items()}
            for name in ("votes", "names")
        }
        corner, speed = np.array(state["corner"]), np.array(state["speed"])
        return cls(**{**state, **numbered, "mask": mask, "corner": corner, "speed": speed})
