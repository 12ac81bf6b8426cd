"""SAM's proposals, compared with segment-anything's generator; cleaning and storing of masks."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from segment_anything.utils.amg import remove_small_regions as remove_one

from frozenseg.checkpoints.state_dict import read_state
from frozenseg.encoders.sam import FrozenSam, build_sam_model
from frozenseg.encoders.sam_decoder import PointDecoder
from frozenseg.errors import UserError
from frozenseg.files import resolve_packaged_path
from frozenseg.inference.proposals import (
    LOGIT_STEP,
    Proposals,
    ProposalSettings,
    automatic_masks,
    propose,
    remove_small_regions,
)
from frozenseg.small_world.scene import Scene, make_scene
from frozenseg.structures import ImageBatch

SETTINGS = ProposalSettings(points_per_side=6, predicted_iou=0.4, stability=0.5)


@pytest.fixture(scope="module")
def sam() -> Sam:
    model = build_sam_model("small")
    state = read_state(resolve_packaged_path("frozenseg://small/sam.safetensors"))
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model.eval()


def scene_at_sams_size() -> Scene:
    """Return a scene whose longer side is SAM's, so that both generators see the same pixels."""
    scenes = (make_scene(0, "sam_test", index) for index in range(100))
    scene = next(scene for scene in scenes if len(scene.things) >= 3)
    scale = 256 / max(scene.ids.shape)
    size = [round(side * scale) for side in scene.ids.shape]
    rows = (np.arange(size[0]) / scale).astype(int)
    columns = (np.arange(size[1]) / scale).astype(int)
    return Scene(scene.image[rows][:, columns], scene.ids[rows][:, columns], scene.regions)


def embedded(sam: Sam, image: np.ndarray) -> torch.Tensor:
    images = ImageBatch.collate([torch.from_numpy(image.copy()).permute(2, 0, 1)], 1)
    return FrozenSam(model=sam, view="keep_aspect").image_embedding(images)


@pytest.mark.parametrize("least_area", [0, 100])
def test_masks_are_those_of_segment_anythings_generator(sam: Sam, least_area: int) -> None:
    image = scene_at_sams_size().image
    settings = ProposalSettings(
        points_per_side=6, predicted_iou=0.4, stability=0.5, min_region_area=least_area,
        points_per_batch=17,
    )  # fmt: skip
    generator = SamAutomaticMaskGenerator(
        sam, points_per_side=6, pred_iou_thresh=0.4, stability_score_thresh=0.5,
        min_mask_region_area=least_area,
    )  # fmt: skip
    expected = np.stack([row["segmentation"] for row in generator.generate(image)])
    with torch.inference_mode():
        masks, low, quality = automatic_masks(
            PointDecoder(sam), embedded(sam, image), image.shape[:2], settings
        )
    masks = masks.numpy()
    assert len(expected) == len(masks) == len(low) == len(quality) > 3
    both = np.einsum("ahw,bhw->ab", expected.astype(float), masks.astype(float))
    union = expected.sum((1, 2))[:, None] + masks.sum((1, 2)) - both
    assert ((both / union).max(axis=1) > 0.99).all()


def test_proposals_are_the_largest_masks_and_span_the_image(sam: Sam) -> None:
    image = scene_at_sams_size().image
    embedding, size = embedded(sam, image), image.shape[:2]
    masks, _, _ = automatic_masks(PointDecoder(sam), embedding, size, SETTINGS)
    few = ProposalSettings(points_per_side=6, predicted_iou=0.4, stability=0.5, max_masks=3)
    found = propose(PointDecoder(sam), embedding, size, few)
    assert len(found) == 3
    largest = masks[masks.flatten(1).sum(1).argsort(descending=True)[:3]].numpy()
    soft = torch.nn.functional.interpolate(found.logits()[None], size=size, mode="bilinear")[0]
    for solid, mask in zip((soft > 0).numpy(), largest, strict=True):
        assert (solid & mask).sum() / (solid | mask).sum() > 0.9  # a quarter of the resolution
    assert found.codes.dtype == torch.int8
    assert found.codes.shape[-2:] == tuple(-(-side // 4) for side in size)


def test_an_image_without_any_mask_has_no_proposals(sam: Sam) -> None:
    sure = ProposalSettings(points_per_side=4, predicted_iou=5.0)
    found = propose(
        PointDecoder(sam), embedded(sam, np.zeros((120, 256, 3), np.uint8)), (120, 256), sure
    )
    assert len(found) == 0 and found.codes.shape == (0, 30, 64)


@pytest.mark.parametrize("holes", [True, False])
def test_cleaning_is_that_of_one_mask_after_the_other(holes: bool) -> None:
    random = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(random.normal(size=(8, 40, 50)), (0, 1.5, 1.5))
    masks = smooth > 0.05
    masks[3] = False
    masks[4] = True
    masks[5] = False
    masks[5, 3:6, 3:6] = masks[5, 20:23, 20:23] = True  # two small islands, equally large
    for least in (1, 12, 60, 10_000):
        cleaned, changed = remove_small_regions(masks, least, holes=holes)
        for mask, ours, moved in zip(masks, cleaned, changed, strict=True):
            if not mask.any() and not holes:
                assert not ours.any() and not moved  # segment-anything has no such masks
                continue
            expected, modified = remove_one(mask, least, "holes" if holes else "islands")
            np.testing.assert_array_equal(ours, expected)
            assert moved == modified


def test_codes_keep_logits_to_half_a_step_and_every_pixel_its_side() -> None:
    logits = 3 * torch.randn(4, 9, 7)
    logits[0, 0, 0] = 1e-4
    stored = Proposals.from_logits(logits, torch.rand(4)).logits()
    assert torch.equal(stored > 0, logits > 0)
    assert (stored - logits.clamp(-6, 6)).abs().max() <= LOGIT_STEP


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="points_per_side 0"):
        ProposalSettings(points_per_side=0)


def test_five_thousand_candidates_give_the_largest_fifty() -> None:
    """They come from a SAM with random weights, with all filters open and no suppression."""
    torch.manual_seed(0)
    sam = build_sam_model("tiny").eval()
    everything = ProposalSettings(
        points_per_side=41, predicted_iou=-100.0, stability=0.0, box_iou=1.0, min_region_area=0
    )
    embedding = embedded(sam, np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    with torch.inference_mode():
        masks, _, _ = automatic_masks(PointDecoder(sam), embedding, (48, 64), everything)
    found = propose(PointDecoder(sam), embedding, (48, 64), everything)
    assert len(masks) > 1000 and len(found) == 50
    largest = masks.flatten(1).sum(1).sort(descending=True).values[:50] / (48 * 64)
    shares = (found.codes > 0).float().flatten(1).mean(1)
    torch.testing.assert_close(shares, largest, atol=0.1, rtol=0)
