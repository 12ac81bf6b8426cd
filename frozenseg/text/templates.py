"""Prompt templates that a class name is put into; the vectors of all are averaged."""

from importlib import resources
from pathlib import Path

import open_clip

from frozenseg.errors import UserError, nearest

PLACE = "{}"
"""Where a template has the name."""

# The 14 templates of ViLD (arXiv 2104.13921, appendix) in the wording that the released weights
# were trained with: four of them end without a full stop.
VILD = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    *(f"a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"This is a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"There is a {size} {{}} in the scene." for size in ("small", "medium", "large")),
)
KNOWN = ("vild14", "fusioner32", "clip80")


def find_templates(source: str) -> tuple[str, ...]:
    """The templates of a name in `KNOWN`, or of a .txt file (`read_templates`)."""
    if source == "vild14":
        return VILD
    if source == "fusioner32":
        with resources.as_file(resources.files("frozenseg.text") / "fusioner32.txt") as path:
            return read_templates(path)
    if source == "clip80":
        return tuple(template(PLACE) for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    if not source.endswith(".txt"):
        raise UserError(
            f"prompt templates {source}: unknown; {nearest(source, list(KNOWN))}; or a .txt file"
        )
    return read_templates(Path(source))


def read_templates(path: Path) -> tuple[str, ...]:
    """The templates of a file, one a line, each with one {} in the place of the name. Blank lines
    and lines that begin with # are none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompt templates {path}: cannot be read ({error})") from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        template = line.strip()
        if not template or template.startswith("#"):
            continue
        if template.count(PLACE) != 1:
            raise UserError(
                f"prompt templates {path}: line {number}, {template!r}, has {PLACE} "
                f"{template.count(PLACE)} times; put it once, in the place of the name"
            )
        if template in found:
            raise UserError(
                f"prompt templates {path}: line {number} repeats line {found[template]}; remove one"
            )
        found[template] = number
    if not found:
        raise UserError(f"prompt templates {path}: holds none; write one a line, with {PLACE}")
    return tuple(found)
