"""A Hugging Face Space: upload a picture, write class names, and see the masks.

The Space needs this file, and a requirements.txt with `gradio` and a wheel of FrozenSeg.
"""

import os

# Otherwise Gradio contacts its own servers to look for a newer version.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio
import numpy as np
from PIL import Image

import frozenseg

segmenter = frozenseg.load(os.environ.get("FROZENSEG_MODEL", "small"))


def segment(image: Image.Image | None, words: str, threshold: float):
    """Return the picture with its named masks, and a line about what was found."""
    if image is None:
        raise gradio.Error("choose a picture first", print_exception=False)
    try:
        result = segmenter(image, words, threshold=threshold)
    except frozenseg.UserError as error:
        raise gradio.Error(str(error), print_exception=False) from None
    regions = result.regions
    masks = [
        # The score is NaN for the regions of a semantic model.
        (
            (regions.ids == region.id).astype(np.float32),
            f"{region.name} {region.score:.2f}".removesuffix(" nan"),
        )
        for region in regions.segments
    ]
    return (result.image, masks), result.summary()


page = gradio.Interface(
    segment,
    inputs=[
        gradio.Image(type="pil", label="Picture"),
        gradio.Textbox("grass; sky; circle, disc", label="Class names, such as: car, truck; road"),
        gradio.Slider(0, 1, 0.25, label="Lowest score"),
    ],
    outputs=[gradio.AnnotatedImage(label="Segments"), gradio.Textbox(label="Found")],
    title="FrozenSeg: segment what you name",
    flagging_mode="never",
)

if __name__ == "__main__":
    page.launch()
