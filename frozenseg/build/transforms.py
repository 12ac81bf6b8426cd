"""Build the transforms that resize and crop images, from the INPUT keys."""

from fvcore.common.config import CfgNode

from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.transforms import LargeScaleJitter, ShortestEdgeResize
from frozenseg.errors import UserError


def training_transform(cfg: CfgNode) -> LargeScaleJitter:
    """Return the scale jitter and crop of training."""
    side, divisor = cfg.INPUT.IMAGE_SIZE, cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY
    if side < 1 or side % divisor:
        raise UserError(f"INPUT.IMAGE_SIZE {side}: must be a multiple of {divisor}")
    return LargeScaleJitter(
        size=side,
        min_scale=cfg.INPUT.MIN_SCALE,
        max_scale=cfg.INPUT.MAX_SCALE,
        flip_probability=cfg.INPUT.FLIP_PROBABILITY,
        diagonal=cfg.INPUT.DIAGONAL_CROPS,
    )


def eval_transform(cfg: CfgNode, benchmark: Benchmark) -> ShortestEdgeResize:
    """Return the resize of test images: to the benchmark's own test size if
    INPUT.SIZE_TEST_OF_BENCHMARK is True, else to INPUT.*_SIZE_TEST."""
    short, long = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if cfg.INPUT.SIZE_TEST_OF_BENCHMARK:
        short, long = benchmark.test_size
    return ShortestEdgeResize(short=short, long=long)
