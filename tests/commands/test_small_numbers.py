"""A number that is too small is one line that names its option, before any work begins."""

import re
from collections.abc import Callable

import pytest

from frozenseg.devtools.commands import (
    analyze_model,
    benchmark_deformable,
    benchmark_export,
    benchmark_proposals,
    benchmark_scoring,
    benchmark_service,
    fuzz,
    measure_gpu,
)
from frozenseg.errors import UserError
from frozenseg.small_world.commands import (
    measure_video,
    small_world_experiment,
    small_world_probe,
)

TOO_SMALL: list[tuple[Callable[[list[str]], object], list[str], str]] = [
    (analyze_model.main, ["--size", "64", "0"], "--size 0"),
    (benchmark_deformable.main, ["--batch", "0"], "--batch 0"),
    (benchmark_deformable.main, ["--threads", "1", "0"], "--threads 0"),
    (benchmark_deformable.main, ["--repeats", "0"], "--repeats 0"),
    (benchmark_export.main, ["model.onnx", "--scenes", "0"], "--scenes 0"),
    (benchmark_proposals.main, ["--images", "0"], "--images 0"),
    (benchmark_scoring.main, ["--size", "1"], "--size 1"),
    (benchmark_scoring.main, ["--segments", "0"], "--segments 0"),
    (benchmark_service.main, ["--memory-requests", "-1"], "--memory-requests -1"),
    (fuzz.main, ["--files", "0"], "--files 0"),
    (measure_gpu.main, ["--limit", "nan"], "--limit nan"),
    (measure_video.main, ["--seeds", "0", "-1"], "--seeds -1"),
    (measure_video.main, ["--clips", "0"], "--clips 0"),
    (measure_video.main, ["--frames", "0"], "--frames 0"),
    (small_world_experiment.main, ["--steps", "0"], "--steps 0"),
    (small_world_experiment.main, ["--seeds", "-1"], "--seeds -1"),
    (small_world_experiment.main, ["--hours", "nan"], "--hours nan"),
    (small_world_probe.main, ["--train", "0"], "--train 0"),
    (small_world_probe.main, ["--test", "0"], "--test 0"),
]


@pytest.mark.parametrize(("main", "argv", "named"), TOO_SMALL)
def test_too_small_a_number(
    main: Callable[[list[str]], object], argv: list[str], named: str
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(named)}: must be at least [01]"):
        main(argv)


def test_an_unknown_device_of_the_proposals_is_one_line() -> None:
    with pytest.raises(UserError, match="DEVICE abacus: unknown"):
        benchmark_proposals.main(["--device", "abacus"])
