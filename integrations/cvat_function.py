"""Label the images of a CVAT task by names: a detection function for CVAT's command line.

It works on this machine and sends the masks to the server:

    pip install cvat-cli
    cvat-cli --server-host https://app.cvat.ai task auto-annotate TASK_ID \\
      --function-file integrations/cvat_function.py --allow-unmatched-labels \\
      -p vocabulary="str:car, truck; road; sky"

The labels of the task are matched by name with the first name of each class. Other parameters:
`things`, `model`, `weights` and `device` as text, as `frozenseg.load` and `Vocabulary.parse` take
them, and `threshold` as a number, which --conf-threshold replaces. --conv-mask-to-poly sends
polygons. The same file serves as an agent: `cvat-cli function create-native`, then `run-agent`.
"""

from dataclasses import dataclass
from functools import cached_property

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk.masks import encode_mask
from PIL import Image

import frozenseg


@dataclass
class FrozenSegFunction:
    """What CVAT calls: `spec` tells the labels, and `detect` finds them in an image.

    segmenter: a predictor. vocabulary: the classes. threshold: the least score, where CVAT asks for
    none.
    """

    segmenter: frozenseg.Predictor
    vocabulary: frozenseg.Vocabulary
    threshold: float

    @cached_property
    def spec(self) -> cvataa.DetectionFunctionSpec:
        """One label for each class, with masks."""
        labels = enumerate(self.vocabulary.labels)
        return cvataa.DetectionFunctionSpec(
            labels=[cvataa.label_spec(name, number, type="mask") for number, name in labels]
        )

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: Image.Image
    ) -> list[cvataa.DetectionAnnotation]:
        """Return the segments of an image, things and stuff, as masks or polygons."""
        asked = context.conf_threshold
        result = self.segmenter(
            image, self.vocabulary, threshold=self.threshold if asked is None else asked
        )
        objects = result.objects()
        rows = zip(objects.class_ids.tolist(), objects.masks, objects.boxes.tolist(), strict=True)
        if context.conv_mask_to_poly:
            outlines = zip(objects.class_ids.tolist(), result.polygons(), strict=True)
            return [
                cvataa.polygon(class_id, ring.astype(float).ravel().tolist())
                for class_id, rings in outlines
                for ring in rings
            ]
        return [cvataa.mask(class_id, encode_mask(mask, box)) for class_id, mask, box in rows]


def create(
    vocabulary: str,
    things: str | None = None,
    model: str = "small",
    weights: str | None = None,
    device: str | None = None,
    threshold: float = 0.25,
) -> FrozenSegFunction:
    """Make the function; `cvat-cli -p` gives the arguments."""
    words = frozenseg.Vocabulary.parse(vocabulary, things)
    segmenter = frozenseg.load(model, weights=weights, device=device)
    return FrozenSegFunction(segmenter, words, threshold)
