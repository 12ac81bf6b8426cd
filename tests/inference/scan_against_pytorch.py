"""Compare the kernels of `scan` with operations of PyTorch; see `test_scan.py`.

Run as a module with TRITON_INTERPRET=1, since Triton decides on import whether to interpret. The
arguments are names of `PROCESSORS` and of `SIZES`, each joined by semicolons.
"""

import sys

import numpy as np
from torch import Tensor

from frozenseg.inference import scan
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.resize import MaskResizer
from frozenseg.runtime.precision import allow_tf32
from frozenseg.runtime.triton_launch import kernels_work
from frozenseg.structures import Prediction
from tests.inference.test_postprocess_exact import WORDS, confident_case, random_case

SIZES = {  # mask at stride 4, padded input, image inside it, output
    "upscaled": ((16, 24), (64, 96), (50, 77), (61, 100)),
    "downscaled": ((16, 24), (64, 96), (64, 90), (23, 64)),
    "as it is": ((13, 21), (13, 21), (13, 21), (13, 21)),
    "a line": ((8, 32), (32, 128), (1, 128), (3, 140)),
}
CASES = {"random": random_case, "confident": confident_case}
PROCESSORS = {
    "all": PostProcessor(),
    "some queries": PostProcessor(object_mask_threshold=0.3, detections_per_image=9),
    "panoptic": PostProcessor(semantic=False, instances=False, overlap_threshold=0.3),
    "instances": PostProcessor(semantic=False, panoptic=False),
    "without duplicates": PostProcessor(semantic=False, duplicate_iou=0.2),
    "without covered ones": PostProcessor(semantic=False, covered_share=0.5),
    "semantic, with a threshold": PostProcessor(
        panoptic=False, instances=False, semantic_threshold=0.4, cells_inside=True
    ),
    "with scores and proposals": PostProcessor(semantic_scores=True, proposals=True),
    "semantic, scores at input size": PostProcessor(masks_at_output_size=False),
}


def results(
    processor: PostProcessor, case: tuple[Tensor, Tensor], sizes: tuple, kernels: bool, device: str
) -> Prediction:
    logits, masks = (tensor.to(device) for tensor in case)
    scan.runs_triton = lambda *tensors: kernels  # type: ignore[assignment]
    names = ("mask_size", "padded_size", "image_size", "output_size")
    resizer = MaskResizer(
        **dict(zip(names, sizes, strict=True)), cells_inside=processor.cells_inside
    )
    return processor(logits, masks, resizer, WORDS)


def check(found: Prediction, expected: Prediction) -> None:
    """Compare two results.

    Small differences are allowed, because the last bit of a sigmoid decides between the twins of
    the confident case, at a mask border between two pixels, and between two nearly equal scores.
    """
    equal = 0.98
    if expected.panoptic is not None:
        assert found.panoptic is not None
        assert (found.panoptic.ids == expected.panoptic.ids).mean() >= equal
        pairs = zip(found.panoptic.segments, expected.panoptic.segments, strict=True)
        for ours, theirs in pairs:
            assert (ours.id, ours.class_id) == (theirs.id, theirs.class_id)
            assert abs(ours.area - theirs.area) <= found.panoptic.ids.size * (1 - equal)
            np.testing.assert_allclose(ours.box, theirs.box, atol=2)
    if expected.semantic is not None:
        assert found.semantic is not None
        assert (found.semantic == expected.semantic).mean() >= equal
    if expected.instances is not None:
        assert found.instances is not None
        np.testing.assert_allclose(found.instances.scores, expected.instances.scores, atol=1e-5)
        assert (found.instances.masks == expected.instances.masks).mean() >= equal


def compare(device: str, processors: list[str], sizes: list[str]) -> None:
    for processor in processors:
        for name in sizes:
            size = SIZES[name]
            for make in CASES.values():
                case = make(0, size[0])
                expected = results(PROCESSORS[processor], case, size, False, device)
                with allow_tf32(True):
                    found = results(PROCESSORS[processor], case, size, True, device)
                check(found, expected)
    assert kernels_work(scan.PART)  # otherwise, PyTorch has been compared with itself


if __name__ == "__main__":
    scan.MASK_BLOCK |= {"BLOCK_ROWS": 32, "BLOCK_COLUMNS": 128}  # fewer programs save time
    scan.CLASS_BLOCK |= {"BLOCK_CLASSES": 16, "BLOCK_PIXELS": 512}
    scan.ELEMENTS = 40000  # makes several bands
    compare("cpu", *(argument.split(";") for argument in sys.argv[1:]))
