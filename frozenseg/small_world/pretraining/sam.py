"""Train the small SAM on the small world, following arXiv 2304.02643, appendix A.

Legend: B images, M masks per image, S side of SAM's input, s side of its low-resolution masks
(S / 2), N points of a prompt.
"""

import cv2
import numpy as np
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from torch import Tensor
from torch.utils.data import Dataset

from frozenseg.small_world.pretraining import mask_losses as weights
from frozenseg.small_world.pretraining.loop import Batch
from frozenseg.small_world.pretraining.mask_losses import iou, mask_losses
from frozenseg.small_world.pretraining.prompts import middle_points, noisy_boxes, sample_points
from frozenseg.small_world.scene import Scene, make_scene
from frozenseg.structures import ImageBatch

AUTOMATIC_IMAGES = 4  # automatic masks take seconds per image on a CPU
# A SAM that is trained this briefly is less confident than the released ones, so its thresholds are
# lower than the published 0.8 and 0.7.
AUTOMATIC = {"pred_iou_thresh": 0.7, "stability_score_thresh": 0.5, "min_mask_region_area": 100}


class PromptedScenes(Dataset[tuple[Tensor, ...]]):
    """Scenes with masks to prompt for.

    Sample i is a padded image (3, S, S) uint8, its height and width without padding (2,), and masks
    (M, s, s) bool of regions of any class, seen or unseen.
    """

    def __init__(self, *, seed: int, side: int, masks: int) -> None:
        self.seed, self.side, self.masks = seed, side, masks

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        scene = make_scene(self.seed, "sam", index)
        image, size, masks = fit_scene(scene, self.side)
        generator = np.random.default_rng([self.seed, index])
        seen = np.flatnonzero(masks.flatten(1).any(dim=1).numpy())
        chosen = generator.choice(seen, self.masks, replace=len(seen) < self.masks)
        return image, torch.tensor(size), masks[chosen]


def fit_scene(scene: Scene, side: int) -> tuple[Tensor, tuple[int, int], Tensor]:
    """Resize a scene by its longer side and pad it, as SAM does.

    Returns the image (3, S, S) uint8, padded at the bottom and right, its (height, width) without
    padding, and the masks (N, s, s) bool of all regions.
    """
    height, width = scene.ids.shape
    scale = side / max(height, width)
    size = (int(height * scale + 0.5), int(width * scale + 0.5))
    resized = Image.fromarray(scene.image).resize(size[::-1], Image.Resampling.BILINEAR)
    image = np.zeros((side, side, 3), np.uint8)
    image[: size[0], : size[1]] = np.asarray(resized)
    low = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    ids = np.zeros((side // 2, side // 2), np.int32)
    ids[: low[0], : low[1]] = cv2.resize(scene.ids, low[::-1], interpolation=cv2.INTER_NEAREST)
    masks = ids == np.arange(1, len(scene.regions) + 1, dtype=np.int32)[:, None, None]
    return torch.from_numpy(image.transpose(2, 0, 1).copy()), size, torch.from_numpy(masks)


class SamTask:
    """Training of a SAM with points, boxes and corrective clicks."""

    def __init__(self, *, model: Sam, seed: int, masks: int, rounds: int, test_images: int) -> None:
        """masks: M. rounds: how often an image is prompted, first with a point or box per mask."""
        self.model, self.seed = model, seed
        self.masks, self.rounds, self.test_images = masks, rounds, test_images
        self.side: int = model.image_encoder.img_size

    def samples(self) -> PromptedScenes:
        """Return the scenes with masks to prompt for."""
        return PromptedScenes(seed=self.seed, side=self.side, masks=self.masks)

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean losses over the images, in total and by part."""
        pixels, sizes, masks = batch
        embeddings = self.encode(pixels, sizes)
        rows = [
            self._image_losses(embedding[None], truth, generator)
            for embedding, truth in zip(embeddings, masks, strict=True)
        ]
        means = {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}
        mask_loss = weights.FOCAL_WEIGHT * means["focal"] + weights.DICE_WEIGHT * means["dice"]
        loss = mask_loss + weights.IOU_WEIGHT * means["iou_error"]
        return {"total_loss": loss, **{name: value.detach() for name, value in means.items()}}

    def encode(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """Return the embeddings (B, C, h, w) of padded images."""
        images = ImageBatch(pixels.float(), [tuple(size) for size in sizes.tolist()])
        return self.model.image_encoder(
            images.normalized(self.model.pixel_mean, self.model.pixel_std)
        )

    def _image_losses(
        self, embedding: Tensor, truth: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the mean losses over the rounds of one image. truth: (M, s, s) bool."""
        by_box = bool(torch.rand((), generator=generator, device=truth.device) < 0.5)
        boxes = noisy_boxes(truth, generator) if by_box else None
        points, labels = (None, None) if by_box else sample_points(truth, truth, generator)
        previous: Tensor | None = None
        sums: dict[str, Tensor] = {}
        for number in range(self.rounds):
            ambiguous = number == 0 and not by_box  # a single point may mean any of several things
            logits, quality = self.predict(
                embedding, points, labels, boxes, previous, several=ambiguous
            )
            losses, best = mask_losses(logits, quality, truth)
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value / self.rounds
            previous = best.detach()
            wrong = (previous > 0) != truth
            empty = ~wrong.flatten(1).any(dim=1)
            where = torch.where(empty[:, None, None], truth, wrong)
            more, more_labels = sample_points(where, truth, generator)
            points = more if points is None else torch.cat([points, more], dim=1)
            labels = more_labels if labels is None else torch.cat([labels, more_labels], dim=1)
        return sums

    def predict(
        self,
        embedding: Tensor,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        previous: Tensor | None,
        *,
        several: bool,
    ) -> tuple[Tensor, Tensor]:
        """Predict logits (M, 3 or 1, s, s) and IoU (M, 3 or 1) for prompts on one image.

        points (M, N, 2), labels (M, N): 1 inside, 0 outside. boxes (M, 4): x0, y0, x1, y1.
        previous: (M, s, s) logits. several: whether to predict three masks per prompt.
        """
        assert points is None or labels is not None, "points come with labels"
        sparse, dense = self.model.prompt_encoder(
            points=None if points is None else (points, labels),
            boxes=boxes,
            masks=None if previous is None else previous[:, None],
        )
        return self.model.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
        )

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the entire model."""
        return self.model.state_dict()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Measure the mean IoU in per cent after one click in the middle of each region.

        It is given for the mask with the highest predicted IoU, and for the best of the three
        masks. The number of automatic masks and their recall of things are returned as well.
        """
        device = self.model.pixel_mean.device
        chosen: list[float] = []
        best: list[float] = []
        is_thing: list[bool] = []
        for index in range(self.test_images):
            scene = make_scene(self.seed, "sam_test", index)
            image, size, masks = fit_scene(scene, self.side)
            keep = masks.flatten(1).any(dim=1)
            truth = masks[keep].to(device)
            embedding = self.encode(image[None].to(device), torch.tensor([size]))
            points = middle_points(truth)
            labels = torch.ones(points.shape[:2], device=device)
            logits, quality = self.predict(embedding, points, labels, None, None, several=True)
            overlap = iou(logits > 0, truth[:, None])
            chosen += overlap.gather(1, quality.argmax(1, keepdim=True))[:, 0].tolist()
            best += overlap.amax(dim=1).tolist()
            rows = zip(scene.regions, keep.tolist(), strict=True)
            is_thing += [region.is_thing for region, kept in rows if kept]
        things, values = np.array(is_thing), np.array(chosen)
        return {
            "one_click_iou": 100 * float(values.mean()),
            "one_click_iou_things": 100 * float(values[things].mean()),
            "one_click_iou_grounds": 100 * float(values[~things].mean()),
            "one_click_iou_best_of_three": 100 * float(np.mean(best)),
            **self._automatic(),
        }

    def _automatic(self) -> dict[str, float]:
        """Run segment-anything's own generator on entire scenes.

        Returns the number of masks per image, and the share of things, in per cent, whose IoU with
        one of the masks is above 0.5.
        """
        generate = SamAutomaticMaskGenerator(self.model, points_per_side=16, **AUTOMATIC).generate
        count, hits = 0, []
        for index in range(AUTOMATIC_IMAGES):
            scene = make_scene(self.seed, "sam_test", index)
            masks = [torch.from_numpy(row["segmentation"]) for row in generate(scene.image)]
            count += len(masks)
            truth = torch.from_numpy(scene.masks())[len(scene.grounds) :]
            if len(masks):
                hits += (iou(torch.stack(masks)[None], truth[:, None]).amax(dim=1) > 0.5).tolist()
            else:
                hits += [False] * len(truth)
        recall = 100 * float(np.mean(hits)) if hits else 0.0
        return {"automatic_masks": count / AUTOMATIC_IMAGES, "automatic_recall_things": recall}
