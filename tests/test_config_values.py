"""Values of keys: each number has a range with two ends, and each key is read somewhere."""

import ast
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fvcore.common.config import CfgNode

from frozenseg.config import IGNORED, default_config, load_config
from frozenseg.config_keys import KEYS
from frozenseg.config_values import FIXED, READ, WRITTEN, Range
from frozenseg.errors import UserError

PACKAGE = Path(__file__).parents[1] / "frozenseg"
MADE_OF_LISTS = ("TEST.EXPECTED_RESULTS",)  # checked where it is used
RANGES = {name: key.rule for name, key in KEYS.items() if isinstance(key.rule, Range)}
CHOICES = {name: key.rule for name, key in KEYS.items() if isinstance(key.rule, tuple)}
FREE = [name for name, key in KEYS.items() if key.rule is not FIXED]


def value_of(key: str, cfg: CfgNode | None = None) -> Any:
    value = default_config() if cfg is None else cfg
    for part in key.split("."):
        value = value[part]
    return value


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def test_every_number_has_a_range() -> None:
    for name in FREE:
        value = KEYS[name].default
        entries = value if isinstance(value, (list, tuple)) else [value]
        assert (bool(entries) and all(map(is_number, entries))) == (name in RANGES), name
        assert not isinstance(value, list) or name in RANGES or name in MADE_OF_LISTS


def outside(key: str, bounds: Range) -> list[float]:
    """Numbers just beyond each end, in the type of the key."""
    value = value_of(key)
    whole = isinstance(value, int) or (isinstance(value, tuple) and isinstance(value[0], int))
    if bounds.only:
        return [max(bounds.only) + 1, min(bounds.only) - 1]
    if whole:
        return [int(bounds.low) - (not bounds.above), int(bounds.high) + (not bounds.below)]
    low = bounds.low if bounds.above else math.nextafter(bounds.low, -math.inf)
    high = bounds.high if bounds.below else math.nextafter(bounds.high, math.inf)
    return [low, high, math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("key", sorted(RANGES))
def test_each_bound_is_refused_just_outside(key: str, tmp_path: Path) -> None:
    bounds = RANGES[key]
    numbers = [bounds.low, bounds.high] if not bounds.only else list(bounds.only)
    inside = [
        number for number in numbers if bounds.holds(number) and not key.startswith("INPUT.M")
    ]  # of MIN_SCALE and MAX_SCALE, the one bounds the other

    def spelt(number: float) -> Any:
        value = value_of(key)
        number = float(number) if isinstance(value, float) else number
        count = bounds.length or 2
        return [number] * count if isinstance(value, (list, tuple)) else number

    for number in inside:
        number = int(number) if number == int(number) else number
        load_config(None, {key: spelt(number)})
    for number in outside(key, bounds):
        with pytest.raises(UserError, match=rf"^{key} .*: must be (above|at least|\d)"):
            load_config(None, {key: spelt(number)})


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_each_choice_is_taken_and_others_are_not(key: str) -> None:
    for choice in CHOICES[key]:
        assert value_of(key, load_config(None, [key, choice])) == choice
    with pytest.raises(UserError, match=f"^{key} {CHOICES[key][0]}x: must be one of .*did you"):
        load_config(None, [key, f"{CHOICES[key][0]}x"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"MODEL.PIXEL_MEAN": [1.0]}, r"MODEL\.PIXEL_MEAN \[1\.0\]: 3 numbers are needed"),
        ({"TEST.AUG.MIN_SIZES": []}, r"TEST\.AUG\.MIN_SIZES \(\): at least 1 number is needed"),
        ({"SOLVER.STEPS": ["a"]}, r"SOLVER\.STEPS holds 'a', numbers were expected"),
        ({"SOLVER.STEPS": [0.5, 0.9]}, r"SOLVER\.STEPS holds 0\.5, whole numbers were expected"),
        ({"SOLVER.STEPS": [float("nan")]}, r"SOLVER\.STEPS \(nan,\): must be at least 0"),
        ({"DATASETS.TEST": [3]}, r"DATASETS\.TEST holds 3, names were expected"),
        ({"SEED": 10**30}, r"SEED 1000+: must be at least -1"),
        ({"INPUT.MIN_SCALE": 2.0, "INPUT.MAX_SCALE": 1.0}, r"MIN_SCALE 2\.0: must not be above"),
        ({"VERSION": 1}, "VERSION 1: only 2 is supported"),
        ({"OUTPUT_DIR": "a\0b"}, "not text that can be written"),
        ({"OUTPUT_DIR": "a\ud800b"}, "not text that can be written"),
        ("SEED", "KEY, VALUE, ... or a mapping was expected"),
        (None, "KEY, VALUE, ... or a mapping was expected"),
        ({"SEED", "1"}, "KEY, VALUE, ... or a mapping was expected"),
        ([1, 2], "KEY, VALUE, ... or a mapping was expected"),
    ],
)
def test_values_that_no_key_takes(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(None, options)


def test_options_may_be_a_mapping() -> None:
    cfg = load_config(None, {"MODEL.DEVICE": "cpu", "SOLVER": {"BASE_LR": 1}})
    assert cfg.MODEL.DEVICE == "cpu" and cfg.SOLVER.BASE_LR == 1.0
    cfg = load_config(None, {"SEED": np.int64(3), "SOLVER.AMP.ENABLED": np.bool_(False),
                             "MODEL.WEIGHTS": Path("a/b.pth")})  # fmt: skip
    assert cfg.SEED == 3 and cfg.SOLVER.AMP.ENABLED is False and cfg.MODEL.WEIGHTS == "a/b.pth"


def test_home_in_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for key in (name for name, key in KEYS.items() if key.rule in (READ, WRITTEN)):
        assert value_of(key, load_config(None, [key, "~/x"])) == str(tmp_path / "x")
    assert load_config(None, ["OUTPUT_DIR", "~"]).OUTPUT_DIR == str(tmp_path)
    assert load_config(None, ["OUTPUT_DIR", "a~b"]).OUTPUT_DIR == "a~b"


def test_a_size_that_is_set_is_chosen() -> None:
    """Also one that equals the default, and also by a YAML file with more over it."""
    assert load_config().INPUT.SIZE_TEST_OF_BENCHMARK
    for key, value in (("INPUT.MIN_SIZE_TEST", 800), ("INPUT.MAX_SIZE_TEST", 1333)):
        assert not load_config(None, {key: value}).INPUT.SIZE_TEST_OF_BENCHMARK
    both = {"INPUT.MIN_SIZE_TEST": 800, "INPUT.SIZE_TEST_OF_BENCHMARK": True}
    assert load_config(None, both).INPUT.SIZE_TEST_OF_BENCHMARK


def test_a_dumped_configuration_is_the_same(tmp_path: Path) -> None:
    for options in ({}, {"INPUT.MIN_SIZE_TEST": 800}, {"SOLVER.STEPS": (1, 2)}):
        cfg = load_config(None, options)
        (tmp_path / "config.yaml").write_text(cfg.dump())
        assert load_config(tmp_path / "config.yaml") == cfg


# ---- keys that are read nowhere


def read_names() -> set[str]:
    """Names by which the package reads keys: attributes, and text in indices or f-strings."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name in ("config.py", "config_keys.py", "config_values.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Subscript):
                inner = ast.walk(node.slice)
                found |= {part.value for part in inner if isinstance(part, ast.Constant)
                          and isinstance(part.value, str)}  # fmt: skip
    return found


def test_every_key_is_read_or_fixed() -> None:
    names = read_names()
    unread = [
        key
        for key in FREE
        if key.rpartition(".")[2] not in names
        and not any(key.endswith(name) for name in names if name.startswith("_") and len(name) > 3)
    ]
    assert unread == []


@pytest.mark.parametrize("path", sorted(Path(PACKAGE.parent, "configs").rglob("*.yaml")) + sorted(
    (PACKAGE / "model_zoo").rglob("*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)  # fmt: skip
def test_our_own_files_set_nothing_without_effect(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "frozenseg"):
        load_config(path)
    assert not [line for line in caplog.messages if "without effect" in line]


def test_keys_without_effect_are_said(caplog: pytest.LogCaptureFixture) -> None:
    options = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19", "INPUT.DATASET_MAPPER_NAME", "x",
               "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "65535"]  # fmt: skip
    with caplog.at_level("INFO", "frozenseg"):
        load_config(None, options)
    (line,) = [line for line in caplog.messages if "accepted without effect" in line]
    assert all(key in line for key in options[::2]) and set(options[::2]) <= set(IGNORED)
