"""YAML files of configurations: what is given twice, too deep or too much is one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from fvcore.common.config import CfgNode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frozenseg.config import default_config, load_config
from frozenseg.errors import UserError
from frozenseg.yaml_file import MOST_FILES, read_yaml

from .test_config import leaves

LAUGHS = "A0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"A{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER:\n  GAMMA: 0.5\nSEED: 1\nSOLVER:\n  EMA: 0.1\n", "SOLVER is given twice, in"),
        ("SOLVER:\n  GAMMA: 0.5\n  GAMMA: 0.4\n", "GAMMA is given twice, in line 2 and in line 3"),
        ("SOLVER: {GAMMA: 0.5}\nSOLVER.GAMMA: 0.4\n", r"SOLVER\.GAMMA is given twice"),
        ("MODEL: {FC_CLIP: {EMBED_DIM: 8}, FROZEN_SEG: {EMBED_DIM: 9}}\n", "EMBED_DIM is given"),
        (LAUGHS, "more than 20,000 values, aliases written out"),
        ("MODEL: &m {A: *m}\n", "more than 30 tables or lists inside each other"),
        ("SEED: " + "[" * 40 + "]" * 40, "more than 30 tables or lists inside each other"),
        ("SEED: " + "[" * 5000 + "]" * 5000, "more than 30 tables or lists inside each other"),
        ("_BASE_:\nSEED: 1\n", "its _BASE_ is None, the path of a YAML file was expected"),
        ('_BASE_: ""\n', "its _BASE_ is '', the path"),
        ("_BASE_: .\n", "its _BASE_ .* is no file"),
        ("_BASE_: b.yaml\n", "its _BASE_ leads back to itself .*b.yaml -> .*a.yaml"),
        ("MODELL: {}\n", "unknown key MODELL"),
        ("MODEL: {BACKBON: {}}\n", r"unknown key MODEL\.BACKBON"),
        ("SOLVER:\n", "unknown key SOLVER: it is a section, with keys like SOLVER.ACCUMULATE"),
        ("SEED: " + "9" * 5000, r"SEED is '9+ \.\.\. .*was expected"),
        ("SEED: !!bool x\n", "cannot be read"),
        ("? [a, b]\n: 1\n", "line 1: a key must be a name"),
        ("# " + "x" * 300_000, "configuration .* bytes are too many"),
    ],
)  # fmt: skip
def test_what_no_configuration_can_hold(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "b.yaml").write_text("_BASE_: a.yaml\n")
    with pytest.raises(UserError, match=message) as caught:
        load_config(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_empty_sections_and_aliases_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("MODEL: {BACKBONE: {}, FC_CLIP: {}}\nSOLVER: {}\n"
                    "TEST: {AUG: {MIN_SIZES: &s [8, 9]}}\nSOLVER.STEPS: *s\n")  # fmt: skip
    cfg = load_config(path)
    assert cfg.SOLVER.STEPS == cfg.TEST.AUG.MIN_SIZES == (8, 9)


def test_bases_come_before_what_goes_over_them(tmp_path: Path) -> None:
    for name, text in {
        "one": "SEED: 1\nSOLVER: {GAMMA: 0.1}\n",
        "two": "SEED: 2\n",
        "top": "_BASE_: [one.yaml, two.yaml]\nSOLVER: {EMA: 0.5}\n",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    assert [path.stem for path, _ in read_yaml(tmp_path / "top.yaml")] == ["one", "two", "top"]
    cfg = load_config(tmp_path / "top.yaml")
    assert (cfg.SEED, cfg.SOLVER.GAMMA, cfg.SOLVER.EMA) == (2, 0.1, 0.5)
    (tmp_path / "x0.yaml").write_text("SEED: 1\n")
    for number in range(1, 12):  # 2 ** 11 files, if each were read as often as it is named
        below = f"x{number - 1}.yaml"
        (tmp_path / f"x{number}.yaml").write_text(f"_BASE_: [{below}, {below}]\n")
    with pytest.raises(UserError, match=f"leads to more than {MOST_FILES} files"):
        load_config(tmp_path / "x11.yaml")


KEYS = leaves(default_config())
WORDS = st.sampled_from([part for key in KEYS for part in key.split(".")] + ["_BASE_", "FC_CLIP"])
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
    | st.binary(max_size=4) | st.sampled_from(["~", "~/x", "1e400", "()", "('a',)", "[[[", "yes"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | SCALARS, inner, max_size=3),
    max_leaves=8,
)


def nested(key: str, value: Any) -> Any:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


@settings(derandomize=True, deadline=None, max_examples=250,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    st.builds(nested, st.sampled_from(KEYS), VALUES) | st.dictionaries(WORDS, VALUES, max_size=4)
)
def test_any_table_is_a_configuration_or_one_line(tmp_path: Path, table: Any) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(yaml.dump(table), encoding="utf-8")
    try:
        cfg = load_config(path)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
    else:
        assert isinstance(cfg, CfgNode)
        path.write_text(cfg.dump(), encoding="utf-8")
        assert load_config(path) == cfg


@settings(derandomize=True, deadline=None, max_examples=250,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.text(alphabet="MODELSOLVER:{}[]&*!<>|-?#'\"%@\n\t .0123,_abEDx", max_size=60))
def test_any_text_is_a_configuration_or_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        load_config(path)
    except UserError as error:
        assert "\n" not in str(error)
