"""An oracle in SAM's place: a feature map that says where every region is, and not what it shows.

An injector can gain no more from any SAM than from this map, as far as linear layers read it. The
map comes from the truth of the scenes, which a model never has, so it reaches the model through the
feature cache alone (`frozenseg.engine.feature_cache`).

Legend: H x W pixels of the padded image, h x w cells of SAM's map, C its channels, D properties.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor
from tqdm import tqdm

from frozenseg.build.device import build_device, build_precision
from frozenseg.build.evaluator import eval_datasets
from frozenseg.build.models import loaded_model
from frozenseg.build.optimization import feature_cache
from frozenseg.build.training_data import training_dataset
from frozenseg.data.annotations import load_panoptic
from frozenseg.data.dataset import Sample, SegmentationDataset
from frozenseg.data.records import Record
from frozenseg.data.transforms import resize_labels
from frozenseg.errors import UserError
from frozenseg.files import read_json
from frozenseg.small_world.export import SPLITS
from frozenseg.structures import FrozenFeatures, ImageBatch

CODES = 16  # random numbers that tell the regions of a scene apart
SEED = 0  # of the codes, and of the directions of the channels


def write_oracle(cfg: CfgNode) -> None:
    """Fill DATALOADER.FEATURE_CACHE with CLIP's features of all training views and test images of a
    small world, and the oracle's map in place of SAM's.

    What is there stays as it is. Raises `UserError` for a training set that is no split of a small
    world, because its annotation leaves out the unseen classes.
    """
    model = loaded_model(cfg, build_device(cfg))
    cache = feature_cache(cfg, model, build_precision(cfg, model.device))
    assert cache is not None, "the arm has a folder for it"
    truth = np.zeros((0, 0), np.int64)

    def encode(images: ImageBatch) -> FrozenFeatures:
        features = model.encode(images)
        assert isinstance(features, FrozenFeatures) and features.sam is not None
        height, width = images.pixels.shape[-2:]
        ids = np.zeros((height, width), np.int64)
        ids[: truth.shape[0], : truth.shape[1]] = truth
        channels, *cells = features.sam.shape[1:]
        oracle = oracle_map(ids, (cells[0], cells[1]), channels).to(features.sam)
        return FrozenFeatures(features.clip, oracle[None] * features.sam.std())

    cache.encode = encode
    sets = _sets(cfg)
    total = sum(len(dataset) for dataset, _ in sets)
    with tqdm(total=total, desc="oracle", unit=" images", disable=None) as bar:
        for dataset, truth_of in sets:
            for number in range(len(dataset)):
                sample = dataset[number]
                truth = truth_of(sample)
                size = sample.unpadded_size or (sample.image.shape[1], sample.image.shape[2])
                cache(ImageBatch.collate([sample.image], model.size_divisor, [size]), model.device)
                bar.update()
    files = len(list((cache.folder / cache.fingerprint).iterdir()))
    if files != total:  # an image that the oracle does not know would get SAM's own map
        raise UserError(
            f"{cache.folder}: holds features of {files} images in place of {total}; remove the "
            "folder and the runs with an oracle"
        )


def _sets(cfg: CfgNode) -> list[tuple[SegmentationDataset, Callable[[Sample], np.ndarray]]]:
    """Return the training set and the test sets, each with the function that returns the number of
    the region of each pixel of a sample, (H, W), 0 in the padding."""
    training, _ = training_dataset(cfg)
    training.unnamed = _regions
    return [
        (training, _truth_of_view),
        *((entry.dataset, _truth_of_image) for entry in eval_datasets(cfg)),
    ]


def _regions(record: Record, image: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Return the regions of a training scene, those of unseen classes too, by making it again."""
    settings = Path(record.image_path).parents[1] / "world.json"
    if not settings.is_file():
        raise UserError(f"{settings}: no such file; an oracle knows small worlds alone")
    world = read_json(settings)
    scene = SPLITS[world["split"]].scene(world["seed"], int(record.image_id) - 1)
    return scene.ids


def _truth_of_view(sample: Sample) -> np.ndarray:
    assert sample.targets is not None
    masks = sample.targets.masks[~sample.targets.is_named].numpy()
    return (masks * np.arange(1, len(masks) + 1)[:, None, None]).sum(0)


def _truth_of_image(sample: Sample) -> np.ndarray:
    ids, _ = load_panoptic(sample.record)
    return resize_labels(ids, (sample.image.shape[1], sample.image.shape[2]))


def oracle_map(ids: np.ndarray, cells: tuple[int, int], channels: int) -> Tensor:
    """Return a map (C, h, w): what is known of each pixel's region, averaged over the pixels of a
    cell, along `channels` fixed random directions, so that numbers vary by about 1.

    ids: (H, W) the number of each pixel's region, 0 in the padding.
    """
    known = torch.from_numpy(properties(ids)).float()
    averaged = F.adaptive_avg_pool2d(known[None], cells)[0]
    generator = torch.Generator().manual_seed(SEED)
    directions = torch.randn(channels, len(averaged), generator=generator)
    return torch.einsum("cd,dhw->chw", directions / len(averaged) ** 0.5, averaged)


def properties(ids: np.ndarray) -> np.ndarray:
    """Return what is known of each pixel, (D, H, W), 0 in the padding.

    The box and the centre of its region (six shares of height and width), the way to the centre
    (two of them), the root of the region's share of the area, whether a region ends here, and
    `CODES` random numbers of the region. Each is scaled to vary by about 1.
    """
    height, width = ids.shape
    rows, columns = np.mgrid[:height, :width] + 0.5
    place = np.stack([rows / height, columns / width])  # (2, H, W)
    chance = np.random.default_rng(SEED)
    found = np.zeros((10 + CODES, height, width))
    edge = np.zeros(ids.shape, bool)
    edge[:-1] |= ids[:-1] != ids[1:]
    edge[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    for number in np.unique(ids[ids > 0]):
        inside = ids == number
        where = place[:, inside]
        centre = where.mean(1)
        box = np.concatenate([where.min(1), where.max(1)])
        of_region = np.concatenate([box - 0.5, centre - 0.5, [inside.mean() ** 0.5 - 0.3]])
        found[:7, inside] = 4 * of_region[:, None]
        found[7:9, inside] = 6 * (centre[:, None] - where)
        found[9, inside] = 2 * edge[inside]
        found[10:, inside] = chance.normal(size=(CODES, 1))
    return found
