"""Prompt templates that a class name is put into; the vectors of all are averaged."""

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
