"""All scores of an image come from one way of post-processing, that of the configuration."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import frozenseg
from frozenseg.data.dataset import SegmentationDataset
from frozenseg.data.records import Categories, Record
from frozenseg.data.transforms import ShortestEdgeResize
from frozenseg.evaluation.evaluator import EvalAugmentation, Evaluator, ScoredDataset
from frozenseg.small_world.scene import make_scene
from frozenseg.structures import Prediction
from frozenseg.text.vocabulary import Vocabulary


@pytest.mark.parametrize("options", [{}, {"MODEL.MASK_FORMER.TEST.MASK_CELLS_INSIDE": False}])
def test_scores_of_views_and_of_queried_classes_are_post_processed_alike(
    tmp_path: Path, options: dict[str, bool]
) -> None:
    """One view is the image itself, and an image with all classes is queried with all of them."""
    scene = make_scene(5, "demo", 1000)
    names = tuple(sorted({region.name for region in scene.regions}))
    labels = np.zeros(scene.ids.shape, np.uint8)
    labels[0, : len(names)] = np.arange(len(names))
    image, annotation = str(tmp_path / "image.png"), str(tmp_path / "labels.png")
    Image.fromarray(scene.image).save(image)
    Image.fromarray(labels).save(annotation)
    record = Record(1, image, *labels.shape, num_classes=len(names), semantic_path=annotation)
    segmenter = frozenseg.load("small-fusioner", device="cpu", options=options)
    vocabulary = Vocabulary.parse("; ".join(names))
    dataset = SegmentationDataset(
        records=[record],
        categories=Categories(names, (True,) * len(names), tuple(range(len(names)))),
        transform=ShortestEdgeResize(short=100, long=150),
        targets=None,
    )
    entry = ScoredDataset(
        name="tiny",
        tasks={},
        dataset=dataset,
        vocabulary=vocabulary,
        text=segmenter.embed(vocabulary),
        wanted=("whole", "mosaic"),
    )
    plain = Evaluator(pipeline=segmenter.pipeline, sets=[entry])
    one_view = EvalAugmentation(short_sides=(100,), long_side=150, flip=False)

    def result(evaluator: Evaluator) -> Prediction:
        ((_, found),) = evaluator.predictions(entry, [dataset[0]])
        return found

    found = result(plain)
    assert len(np.unique(found.semantic)) > 1
    np.testing.assert_array_equal(found.present_best, found.semantic)
    augmented = result(replace(plain, augmentation=one_view))
    np.testing.assert_array_equal(augmented.semantic, found.semantic)
