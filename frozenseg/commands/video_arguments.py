"""--stride, --start, --end, --max-side, --no-track, ...: how a command segments videos."""

import argparse
import math

from frozenseg.commands.segment_video import VideoOptions
from frozenseg.data.video import CODECS, Selection
from frozenseg.errors import UserValueError


def add_video(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for videos to a command line; they do not affect images."""
    group = parser.add_argument_group("videos, cameras and streams")
    add = group.add_argument
    add("--stride", type=int, default=1, help="take every N-th frame (default: 1)", metavar="N")
    add("--start", type=float, default=0.0, help="begin at this second", metavar="S")
    add("--end", type=float, default=math.inf, help="end before this second", metavar="S")
    add(
        "--max-side",
        type=int,
        default=0,
        metavar="PIXELS",
        help="scale larger frames down to this longer side, also in the output video and results",
    )
    add(
        "--track",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="give the same thing the same id, colour and name in all frames (default)",
    )
    add(
        "--reuse-still",
        type=float,
        metavar="LEVEL",
        help="do not segment a frame if no part of it has changed by more than LEVEL grey levels "
        "(0-255) since the last segmented frame, but reuse the result of that frame (default: off)",
    )
    add(
        "--codec",
        choices=CODECS,
        default=CODECS[0],
        help="codec of the output video (default: %(default)s)",
    )
    add("--legend", action="store_true", help="draw a legend beside the frames of the output video")


def video_options(arguments: argparse.Namespace) -> VideoOptions:
    """Return the options that the arguments give; raise `UserError` for values out of range."""
    level = arguments.reuse_still
    if level is not None and not 0 <= level <= 255:
        raise UserValueError(f"--reuse-still {level:g}: must lie in 0-255")
    return VideoOptions(
        selection=Selection(
            stride=arguments.stride,
            start=arguments.start,
            end=arguments.end,
            max_side=arguments.max_side,
        ),
        track=arguments.track,
        still=level,
        codec=arguments.codec,
        legend=arguments.legend,
    )
