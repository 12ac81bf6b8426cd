"""Draws docs/imports.svg: which folder of the package imports which, by the table of layers.

python -m tests.docs.import_picture
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402

from tests.test_imports import FLOORS, HEIGHT, ROWS, files_of, imported  # noqa: E402

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "imports.svg"
COLOURS = {"library": "#dbeafe", "assembly": "#fde68a", "faces": "#bbf7d0", "workshop": "#e5e7eb"}
WIDTH = 12.0


def arrows() -> set[tuple[str, str]]:
    """(room, imported room), without those that follow from others by way of a third room."""
    direct = {
        (room, other)
        for room in HEIGHT
        for path in files_of(room)
        for name in imported(path)
        if (other := name.split(".")[1] if name.startswith("frozenseg.") else room) in HEIGHT
        and other != room
    }
    reached = {room: {room} for room in HEIGHT}
    for room in HEIGHT:  # from the ground up: what a room imports is complete
        for start, other in direct:
            if start == room:
                reached[room] |= reached[other]
    return {
        (room, other)
        for room, other in direct
        if not any((room, way) in direct and other in reached[way] - {way} for way in HEIGHT)
    }


def places() -> dict[str, tuple[float, float]]:
    """The centre of each room; rows from below."""
    found = {}
    for height, row in enumerate(ROWS):
        shift = 0.35 if height % 2 else -0.35  # or arrows would run through the rooms between
        for number, room in enumerate(row):
            x = WIDTH * (number + 1) / (len(row) + 1) + shift * (2 if len(row) == 1 else 1)
            found[room] = (x, float(height))
    return found


def draw(path: Path) -> None:
    """Write the picture. Each arrow carries its two rooms as its id."""
    centre = places()
    matplotlib.rcParams.update({"svg.hashsalt": "frozenseg", "svg.fonttype": "none"})
    figure, axes = pyplot.subplots(figsize=(9, 9.5))
    for room, other in sorted(arrows()):
        arrow = axes.annotate(
            "",
            xy=(centre[other][0], centre[other][1] + 0.22),
            xytext=(centre[room][0], centre[room][1] - 0.22),
            arrowprops={"arrowstyle": "->", "color": "#64748b", "linewidth": 0.8},
        )
        arrow.arrow_patch.set_gid(f"{room}-{other}")
    for room, (x, y) in centre.items():
        box = {
            "boxstyle": "round,pad=0.35",
            "facecolor": COLOURS[FLOORS[HEIGHT[room]]],
            "edgecolor": "#475569",
        }
        axes.text(x, y, room, ha="center", va="center", fontsize=9, bbox=box)
    for floor, colour in COLOURS.items():
        axes.scatter([], [], color=colour, edgecolors="#475569", marker="s", s=90, label=floor)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(-0.6, len(ROWS) - 0.4)
    axes.axis("off")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw(PICTURE)
