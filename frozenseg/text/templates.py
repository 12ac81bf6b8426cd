"""Prompt templates for class names; the text embeddings of all templates are averaged."""

from importlib import resources
from pathlib import Path

import open_clip

from frozenseg.errors import UserError, nearest

PLACE = "{}"
"""The placeholder for the class name in a template."""

# The 14 templates of ViLD (arXiv 2104.13921, appendix). Four of them have no full stop, because the
# released weights were trained with this wording.
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
CLIP_ALONE = ("a photo of a {}.",)  # CLIP's default prompt (arXiv 2103.00020, section 3.1.4)
KNOWN = ("vild14", "fusioner32", "clip80", "clip1")


def find_templates(source: str) -> tuple[str, ...]:
    """Return the templates with a name from `KNOWN`, or those of a .txt file (`read_templates`).

    Raises `UserError` for an unknown name.
    """
    if source == "vild14":
        return VILD
    if source == "clip1":
        return CLIP_ALONE
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
    """Return the templates of a file: one in each line, each with one {} in place of the name.

    Blank lines and lines that begin with # are skipped. Raises `UserError` for a file that cannot
    be read, has no template, repeats one, or has a line without {} or with several.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompt templates {path}: cannot be read ({error})") from None
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        template = line.strip()
        if not template or template.startswith("#"):
            continue
        if template.count(PLACE) != 1:
            raise UserError(
                f"prompt templates {path}: line {number}, {template!r}, has {PLACE} "
                f"{template.count(PLACE)} times; put it once, in place of the name"
            )
        if template in line_of:
            raise UserError(
                f"prompt templates {path}: line {number} repeats line {line_of[template]}; "
                "remove one"
            )
        line_of[template] = number
    if not line_of:
        raise UserError(
            f"prompt templates {path}: holds none; write one in each line, with {PLACE}"
        )
    return tuple(line_of)
