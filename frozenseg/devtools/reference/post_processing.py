"""Compare post-processing by itself, from predictions to the results of every task."""

from typing import Any

import numpy as np
import torch

from frozenseg.devtools.reference import compare
from frozenseg.devtools.reference.compare import Rows, map_error, tensor_error
from frozenseg.inference.join_proposals import semantic_weights
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.resize import MaskResizer
from frozenseg.text.vocabulary import Vocabulary


def post_processing_rows(settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Rows:
    """Yield the error of each result against the stored one."""
    classes, things = settings["classes"], settings["things"]
    names = tuple((f"class {number}",) for number in range(classes))
    vocabulary = Vocabulary(names, tuple(number < things for number in range(classes)))
    everything = Vocabulary(names, (True,) * classes)
    # Some inputs are stored in half precision; the comparison is made in float32.
    class_logits, mask_logits, sam_class_logits, sam_mask_logits = (
        torch.from_numpy(arrays[name]).float()
        for name in ("class_log_probs", "mask_logits", "sam_class_logits", "sam_mask_logits")
    )
    resizer = MaskResizer.identity((mask_logits.shape[-2], mask_logits.shape[-1]))

    def run(vocabulary: Vocabulary = vocabulary, **options: Any) -> Any:
        process = PostProcessor(detections_per_image=settings["instances"], **options)
        return process(class_logits, mask_logits, resizer, vocabulary)

    scores = run(semantic_scores=True).semantic_scores
    yield "semantic", tensor_error(scores, arrays["semantic"])
    weights = semantic_weights(
        class_logits,
        sam_class_logits,
        torch.from_numpy(arrays["seen"]).bool(),
        epsilon=settings["epsilon"],
        threshold=settings["xi"],
    )
    masks = torch.cat((mask_logits, sam_mask_logits)).sigmoid()
    joined = torch.einsum("qk,qhw->khw", torch.cat(weights), masks)
    yield "semantic_with_sam", tensor_error(joined, arrays["semantic_with_sam"])
    for case in "abc":
        expected = settings[f"panoptic_{case}"]
        panoptic = run(
            object_mask_threshold=expected["object_mask_threshold"],
            overlap_threshold=expected["overlap_threshold"],
        ).panoptic
        yield f"panoptic_{case}", map_error(panoptic.ids, arrays[f"panoptic_{case}"])
        yield f"segments_{case}", compare.segment_error(panoptic, expected["segments"])
    for case, words in (("instance_things", vocabulary), ("instance_all", everything)):
        instances = run(words).instances
        scores, labels = arrays[f"{case}_scores"], arrays[f"{case}_classes"]
        yield from compare.instance_rows(case, instances, scores, labels)
        width = mask_logits.shape[-1]
        packed = np.unpackbits(arrays[f"{case}_masks"], axis=-1)[..., :width].astype(bool)
        order = compare.by_score(instances.scores, instances.class_ids)
        expected_order = compare.by_score(scores, labels)
        yield f"{case}_masks", map_error(instances.masks[order], packed[expected_order])
