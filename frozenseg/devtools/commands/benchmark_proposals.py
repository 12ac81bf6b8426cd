"""Time our SAM proposals beside segment-anything's own mask generator, with the same settings.

Both use the same weights, and get the images at SAM's input size, so that they see the same pixels.
A mask of the generator agrees if one of our masks has an IoU of at least 0.99 with it.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from frozenseg.build.device import build_device
from frozenseg.checkpoints.frozen_weights import FrozenPart, find_sam, load_part
from frozenseg.commands.number_arguments import check_least
from frozenseg.commands.output_argument import output_file
from frozenseg.config import load_config
from frozenseg.data.image_files import list_images
from frozenseg.data.images import read_image
from frozenseg.data.transforms import resize_image
from frozenseg.encoders.sam import FrozenSam, build_sam_model
from frozenseg.encoders.sam_decoder import PointDecoder
from frozenseg.files import resolve_packaged_path, write_json
from frozenseg.inference.proposals import ProposalSettings, automatic_masks
from frozenseg.runtime.environment import device_name
from frozenseg.small_world.scene import make_scene
from frozenseg.structures import ImageBatch

ALIKE = 0.99  # lowest IoU of masks that agree


def main(argv: list[str]) -> int | None:
    """Time our proposals and segment-anything's on the same images, and print a report."""
    arguments = _parser().parse_args(argv)
    check_least(arguments, images=1, repeats=1)
    device = build_device(load_config(None, ["MODEL.DEVICE", arguments.device]))
    torch.manual_seed(0)
    sam = build_sam_model(arguments.sam)
    weights = resolve_packaged_path(arguments.weights)
    loaded = load_part(FrozenPart("sam", sam, lambda: find_sam(arguments.sam, weights)), True)
    sam.eval().to(device)
    settings = ProposalSettings(
        points_per_side=arguments.points_per_side,
        predicted_iou=arguments.predicted_iou,
        stability=arguments.stability,
    )
    images = _images(arguments, sam.image_encoder.img_size)
    rows = [compare(sam, image, settings, arguments.repeats) for image in images]
    report: dict[str, Any] = {
        "sam": arguments.sam + ("" if loaded else ", random weights"),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "images": len(rows),
        "settings": settings.identity(),
        "segment_anything_s": statistics.median(row["theirs"] for row in rows),
        "ours_s": statistics.median(row["ours"] for row in rows),
        "ratio": statistics.median(row["theirs"] / row["ours"] for row in rows),
        "masks": sum(row["masks"] for row in rows),
        "masks_ours": sum(row["masks_ours"] for row in rows),
        "agree": sum(row["agree"] for row in rows),
        "gflop_per_s_of_a_matrix_product": matrix_rate(device),
    }
    for key, value in report.items():
        print(f"{key:34s} {round(value, 3) if isinstance(value, float) else value}")
    if arguments.json:
        write_json(arguments.json, report, indent=1)
    return None


def compare(
    sam: Sam, image: np.ndarray, settings: ProposalSettings, repeats: int
) -> dict[str, float]:
    """Time both on an image, including the image encoder, and count the masks that agree."""
    generator = SamAutomaticMaskGenerator(
        sam,
        points_per_side=settings.points_per_side,
        pred_iou_thresh=settings.predicted_iou,
        stability_score_thresh=settings.stability,
        min_mask_region_area=settings.min_region_area,
    )
    frozen, decoder = FrozenSam(model=sam, view="keep_aspect"), PointDecoder(sam)
    height, width = image.shape[:2]
    batch = ImageBatch.collate([torch.from_numpy(image.copy()).permute(2, 0, 1)], 1)

    def ours() -> np.ndarray:
        with torch.inference_mode():
            square = frozen.image_embedding(batch.to(sam.device))
            masks, _, _ = automatic_masks(decoder, square, (height, width), settings)
            return masks.cpu().numpy()

    def theirs() -> np.ndarray:
        masks = [row["segmentation"] for row in generator.generate(image)]
        return np.stack(masks) if masks else np.zeros((0, height, width), bool)

    our_masks, their_masks = ours(), theirs()  # also warms up
    times = [(_seconds(ours), _seconds(theirs)) for _ in range(repeats)]
    return {
        "ours": statistics.median(pair[0] for pair in times),
        "theirs": statistics.median(pair[1] for pair in times),
        "masks": len(their_masks),
        "masks_ours": len(our_masks),
        "agree": agreeing(their_masks, our_masks),
    }


def agreeing(expected: np.ndarray, others: np.ndarray) -> int:
    """Count the expected masks (N, H, W) bool that agree with one of the others (M, H, W)."""
    if not len(expected) or not len(others):
        return 0
    first, second = (m.reshape(len(m), -1).astype(np.float32) for m in (expected, others))
    both = first @ second.T
    union = first.sum(1)[:, None] + second.sum(1) - both
    return int(((both / union).max(axis=1) >= ALIKE).sum())


def matrix_rate(device: torch.device, side: int = 1024) -> float:
    """Measure the device's rate of a matrix product in GFLOP/s."""
    left = torch.randn(side, side, device=device)
    times = [_seconds(lambda: (left @ left).sum().item()) for _ in range(10)]
    return 2 * side**3 / statistics.median(times) / 1e9


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _images(arguments: argparse.Namespace, side: int) -> list[np.ndarray]:
    """Read or make the images, with a longer side of `side` pixels."""
    if arguments.input:
        images = [read_image(path) for path in list_images(arguments.input)]
    else:
        images = [make_scene(0, "sam_test", index).image for index in range(arguments.images)]
    sizes = [ResizeLongestSide.get_preprocess_shape(*image.shape[:2], side) for image in images]
    return [np.array(resize_image(*row)) for row in zip(images, sizes, strict=True)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg benchmark_proposals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--sam", default="small", help="size of SAM (default: %(default)s)")
    add(
        "--weights",
        default="frozenseg://small/sam.safetensors",
        help="SAM's weights (default: %(default)s)",
    )
    add("--input", nargs="+", default=[], metavar="PATH", help="images (default: made-up scenes)")
    add("--images", type=int, default=4, help="number of made-up scenes (default: %(default)s)")
    add("--repeats", type=int, default=3, help="runs of each (default: %(default)s)")
    grid = "points per side of the grid of prompts (default: %(default)s)"
    add("--points-per-side", type=int, default=32, help=grid)
    add(
        "--predicted-iou",
        type=float,
        default=0.8,
        help="lowest predicted IoU (default: %(default)s)",
    )
    add("--stability", type=float, default=0.7, help="lowest stability (default: %(default)s)")
    add("--device", default="cpu", help="device (default: %(default)s)")
    add("--json", type=output_file, help="write the numbers to this file")
    return parser
