"""Images to FrozenSeg and its results back, as Transformers' pipelines want them."""

from typing import Any

import torch
from transformers import BaseImageProcessor, BatchFeature

from frozenseg.data.image_inputs import to_array


class FrozenSegImageProcessor(BaseImageProcessor):
    """Hands images over as they are, because the model resizes them itself."""

    model_input_names = ["pixel_values"]

    def __call__(self, images: Any, return_tensors: Any = None, **_: Any) -> BatchFeature:
        """Read one image, or a list of them, as (3, H, W) uint8 each."""
        listed = images if isinstance(images, list | tuple) else [images]
        arrays = [torch.from_numpy(to_array(image)).permute(2, 0, 1) for image in listed]
        pixels = arrays[0][None] if len(arrays) == 1 else arrays
        return BatchFeature({"pixel_values": pixels})

    def post_process_panoptic_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.25,
        target_sizes: Any = None,
        **_: Any,
    ) -> list[dict[str, Any]]:
        """Return "segmentation" and "segments_info" of each image, at its own size."""
        return [result.filter(threshold=threshold).to_dict() for result in outputs["results"]]
