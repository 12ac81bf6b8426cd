"""Configuration: published files load as they are, slips are named, nothing is executed."""

import logging
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from frozenseg.config import IGNORED, default_config, load_config, merge_options, select_config
from frozenseg.errors import UserError
from frozenseg.recipes import packaged_config

from .published_yaml import BASE, PUBLISHED

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))


@pytest.fixture
def write(tmp_path: Path):
    def write_files(text: str, base: str = BASE) -> Path:
        (tmp_path / "base.yaml").write_text(base)
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write_files


def test_a_published_file_loads_unmodified(write, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "frozenseg"):
        cfg = load_config(write(PUBLISHED))
    assert cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES == 200
    assert cfg.SOLVER.BASE_LR == 1e-4 and isinstance(cfg.SOLVER.BASE_LR, float)
    assert cfg.DATASETS.TEST == ("openvocab_ade20k_panoptic_val",)  # over the base's two
    assert cfg.DATASETS.TRAIN == ("openvocab_coco_2017_train_panoptic_with_sem_seg",)
    assert cfg.SOLVER.STEPS == (327778, 355092)
    for value, expected in (
        (cfg.MODEL.FROZEN_SEG.GEOMETRIC_ENSEMBLE_BETA, 1.0),
        (cfg.MODEL.MASK_FORMER.MASK_WEIGHT, 5.0),
        (cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD, 0.0),
        (cfg.SOLVER.WARMUP_FACTOR, 1.0),
    ):
        assert value == expected and isinstance(value, float)
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
    # What means nothing here is said once.
    (record,) = [entry for entry in caplog.messages if "accepted without effect" in entry]
    for key in ("MODEL.RESNETS.DEPTH", "MODEL.SWIN.DEPTHS", "MODEL.BACKBONE.FREEZE_AT"):
        assert record.count(key) == 1
    assert "RESNETS" not in cfg.MODEL and "SWIN" not in cfg.MODEL


def test_every_ignored_key_is_accepted_alone() -> None:
    for key in IGNORED:
        load_config(None, [key, "7", f"{key}.BELOW", "7"])


def test_our_keys_out_of_a_larger_configuration() -> None:
    """As detectron2's: it has keys of its own, some of which we would ignore."""
    larger = default_config()
    larger.MODEL.RPN = CfgNode({"HEAD_NAME": "x", "LIMIT": None})
    larger.MODEL.RESNETS = CfgNode({"DEPTH": 50})
    merge_options(larger, ["MODEL.MASK_FORMER.MASK_WEIGHT", "4", "MODEL.RESNETS.DEPTH", "101"])
    merge_options(larger, ["MODEL.RPN.LIMIT", "0.5", "MODEL.RESNETS.STEM_TYPE", "basic"])
    assert larger.MODEL.RESNETS == {"DEPTH": 101} and larger.MODEL.RPN.LIMIT == 0.5
    chosen = select_config(larger)
    expected = load_config(None, ["MODEL.MASK_FORMER.MASK_WEIGHT", "4"])
    assert chosen.dump() == expected.dump() and chosen.is_frozen()
    larger.INPUT.FORMAT = "BGR"
    with pytest.raises(UserError, match="INPUT.FORMAT BGR: only RGB is supported"):
        select_config(larger)


def test_fc_clips_own_keys(write) -> None:
    text = "MODEL:\n  META_ARCHITECTURE: FCCLIP\n  FC_CLIP:\n    EMBED_DIM: 640\n"
    cfg = load_config(write(text))
    assert cfg.MODEL.FROZEN_SEG.EMBED_DIM == 640 and cfg.MODEL.META_ARCHITECTURE == "FCCLIP"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_our_own_files_load(path: Path) -> None:
    cfg = load_config(path)
    assert cfg.is_frozen()
    for line in path.read_text().splitlines()[:1]:
        assert line.startswith("# ")  # a header says what it is


def test_there_are_recipes_and_the_packaged_model() -> None:
    stems = {path.stem for path in CONFIGS}
    assert {"convnext_large", "convnext_large_eval_ade20k", "r50x64", "r50x64_eval_ade20k"} <= stems
    assert load_config(packaged_config("small")).MODEL.SAM_NAME == "small"
    assert packaged_config("nothing") is None


def test_published_defaults() -> None:
    """docs/papers.md, FrozenSeg's architecture and training."""
    cfg = load_config()
    frozen, mask, test = cfg.MODEL.FROZEN_SEG, cfg.MODEL.MASK_FORMER, cfg.MODEL.MASK_FORMER.TEST
    assert (frozen.GEOMETRIC_ENSEMBLE_ALPHA, frozen.GEOMETRIC_ENSEMBLE_BETA) == (0.4, 0.8)
    assert (mask.NUM_OBJECT_QUERIES, mask.DEC_LAYERS, mask.DIM_FEEDFORWARD) == (250, 10, 2048)
    assert (mask.CLASS_WEIGHT, mask.MASK_WEIGHT, mask.DICE_WEIGHT) == (2.0, 5.0, 5.0)
    assert (test.OBJECT_MASK_THRESHOLD, test.OVERLAP_THRESHOLD) == (0.0, 0.8)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH) == (1e-4, 368750, 16)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)
    assert (frozen.SAM_ENCODER_LEVELS, frozen.SAM_VIEW, frozen.KEEP_KEY_POSITIONS) == (
        3, "stretch", False,
    )  # fmt: skip
    assert test.MASK_CELLS_INSIDE is False


def leaves(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        inner = isinstance(value, CfgNode)
        keys += leaves(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}"]
    return keys


def test_every_key_takes_its_own_default_back_as_an_option() -> None:
    cfg = default_config()
    for key in leaves(cfg):
        value = cfg
        for part in key.split("."):
            value = value[part]
        chosen = load_config(None, [key, str(value)], freeze=False)
        if key.endswith("_SIZE_TEST"):  # a size that is set comes before a benchmark's own
            assert chosen.INPUT.SIZE_TEST_OF_BENCHMARK is False
            chosen.INPUT.SIZE_TEST_OF_BENCHMARK = True
        assert chosen == load_config(), key


def test_options_go_over_the_file(write) -> None:
    options = [
        "SOLVER.BASE_LR", "5e-5",
        "DATASETS.TEST", "('a', 'b')",
        "MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "false",
        "MODEL.SAM_NAME", "vit_h",
        "SOLVER.WEIGHT_DECAY", "0",
    ]  # fmt: skip
    cfg = load_config(write(PUBLISHED), options)
    assert cfg.SOLVER.BASE_LR == 5e-5 and cfg.DATASETS.TEST == ("a", "b")
    assert cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON is False and cfg.MODEL.SAM_NAME == "vit_h"
    assert cfg.SOLVER.WEIGHT_DECAY == 0.0


def test_lists_of_sets_are_found_beside_the_file(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the one of all sets. SET may hold "=" itself, and LIST may be one of the package."""
    (tmp_path / "v.txt").write_text("cat\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    lists = "('x=v.txt', 'a=b=v.txt', 'y=coco_panoptic', 'z=~/v.txt', 'none')"
    cfg = load_config(write(f"DATASETS:\n  VOCABULARY: v.txt\n  VOCABULARIES: {lists}\n"))
    beside = str(tmp_path / "v.txt")
    assert cfg.DATASETS.VOCABULARY == beside
    assert cfg.DATASETS.VOCABULARIES == (
        f"x={beside}", f"a=b={beside}", "y=coco_panoptic", f"z={tmp_path}/home/v.txt", "none",
    )  # fmt: skip
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("v.txt").write_text("dog\n")
    assert load_config(tmp_path / "config.yaml").DATASETS.VOCABULARIES[0] == "x=v.txt"


def test_a_saved_folder_has_what_it_names(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another folder, what lies in the working folder comes first."""
    text = "MODEL:\n  TEXT:\n    TEMPLATES: templates.txt\n"
    (tmp_path / "frozenseg.yaml").write_text(text)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for path in (Path("templates.txt"), tmp_path / "templates.txt"):
        path.write_text("a {}\n")
    assert load_config(tmp_path).MODEL.TEXT.TEMPLATES == "templates.txt"
    (tmp_path / "model.safetensors").touch()
    assert load_config(tmp_path).MODEL.TEXT.TEMPLATES == str(tmp_path / "templates.txt")


@pytest.mark.parametrize(
    "text", ["2026_11", "1e5", "007", "0x10", "None", "3", "1.50", "12:30", "2026-11-26"]
)
def test_text_stays_text_to_the_letter(text: str, write) -> None:
    """A folder may be called 2026_11, which Python and YAML would read as the number 202611."""
    assert load_config(None, ["OUTPUT_DIR", text]).OUTPUT_DIR == text
    assert load_config(write(f"OUTPUT_DIR: {text}\n")).OUTPUT_DIR == text


def test_numbers_of_a_file_are_those_of_options(write) -> None:
    """YAML 1.1 reads 0100 as 64 and 1:30 as 90; in Python they are no numbers."""
    for text, number in (("1_000", 1000), ("+5", 5), ("0x10", 16), ("0o17", 15)):
        for cfg in (load_config(write(f"SEED: {text}\n")), load_config(None, ["SEED", text])):
            assert number == cfg.SEED
    cfg = load_config(write("SOLVER: {GAMMA: .50, STEPS: [1_000, 2e3]}\n"
                            "TEST: {EXPECTED_RESULTS: [[a, PQ, 0.10, .5]]}\n"))  # fmt: skip
    assert cfg.SOLVER.GAMMA == 0.5 and cfg.SOLVER.STEPS == (1000, 2000)
    assert cfg.TEST.EXPECTED_RESULTS == [["a", "PQ", 0.1, 0.5]]


def test_text_in_quotes() -> None:
    assert load_config(None, ["MODEL.SAM_NAME", "'vit_l'"]).MODEL.SAM_NAME == "vit_l"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL:\n  SAM_NAM: x\n", r"config\.yaml: unknown key MODEL\.SAM_NAM; did .*SAM_NAME"),
        ("SOLVER:\n  BASE_LRR: 1\n", r"unknown key SOLVER\.BASE_LRR; did you mean SOLVER\.BASE_LR"),
        ("MODEL: 3\n", r"unknown key MODEL"),
        ("SOLVER:\n  MAX_ITER: many\n", r"MAX_ITER is 'many' \(str\), a int was expected"),
        ("SOLVER:\n  MAX_ITER: 0100\n", r"MAX_ITER is '0100' \(str\), a int was expected"),
        ("SOLVER:\n  MAX_ITER: 1:30\n", r"MAX_ITER is '1:30' \(str\), a int was expected"),
        ("SOLVER:\n  MAX_ITER: 1.5\n", r"SOLVER\.MAX_ITER is 1\.5 \(float\)"),
        ("SOLVER:\n  MAX_ITER: True\n", r"SOLVER\.MAX_ITER is True \(bool\)"),
        ("SOLVER:\n  MAX_ITER:\n", r"SOLVER\.MAX_ITER is None"),
        ("DATASETS:\n  TEST: some_set\n", r"DATASETS\.TEST is 'some_set' \(str\), a tuple"),
        ("MODEL:\n  MASK_FORMER:\n    TEST:\n      PANOPTIC_ON: 1\n", r"PANOPTIC_ON is 1 \(int\)"),
        ("MODEL:\n  MASK_FORMER:\n    PRE_NORM: True\n", r"PRE_NORM True: only False is supported"),
        ("MODEL:\n  SEM_SEG_HEAD:\n    NORM: BN\n", r"NORM BN: only GN is supported"),
        ("MODEL: [\n", r"config\.yaml: cannot be read \(.*line"),
        ("MODEL:\n\tSAM_NAME: x\n", r"config\.yaml: cannot be read"),
        ("- a\n- b\n", r"config\.yaml: a table of keys was expected"),
        ("# nothing\n", r"config\.yaml: a table of keys was expected"),
        ("just text\n", r"config\.yaml: a table of keys was expected"),
        ("_BASE_: ./nowhere.yaml\n", r"config\.yaml: its _BASE_ .*nowhere\.yaml is missing"),
    ],
)  # fmt: skip
def test_slips_in_a_file_are_named(write, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_config(write(text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_its_own_base(write) -> None:
    with pytest.raises(UserError, match=r"config\.yaml: its _BASE_ leads back to itself"):
        load_config(write("_BASE_: ./config.yaml\n"))


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="a folder without config.yaml"):
        load_config(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"x\.yaml: cannot be read"):
        load_config(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["SEED"], "options must be KEY VALUE pairs; 'SEED' stands alone"),
        (["SEED", "1", "MODEL.WEIGHTS"], "'MODEL.WEIGHTS' stands alone"),
        (["SEDE", "1"], "options: unknown key SEDE; did you mean SEED"),
        (["SEED", "x"], "options: SEED is 'x'"),
        (["SEED", "{[]: 1}"], "options: SEED is "),
        (["MODEL", "x"], "options: unknown key MODEL"),
        (["SOLVER.STEPS", "5"], "options: SOLVER.STEPS is 5"),
        (["INPUT.FORMAT", "BGR"], "INPUT.FORMAT BGR: only RGB is supported"),
    ],
)
def test_slips_in_options_are_named(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(None, options)


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:pathlib.Path.touch", "!!python/object/new:pathlib.Path"]
)
def test_nothing_in_a_file_is_executed(
    write, tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    attack = f"OUTPUT_DIR: {tag} [executed]\n"
    for text, base in ((attack, BASE), ("_BASE_: ./base.yaml\n", attack)):
        with pytest.raises(UserError, match="cannot be read"):
            load_config(write(text, base))
    assert not (tmp_path / "executed").exists()


def test_options_are_not_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "__import__('pathlib').Path('executed').touch()"
    assert load_config(None, ["OUTPUT_DIR", text]).OUTPUT_DIR == text
    assert not (tmp_path / "executed").exists()


def test_frozen_unless_asked() -> None:
    with pytest.raises(AttributeError):
        load_config().SEED = 5
    cfg = load_config(None, freeze=False)
    cfg.SEED = 5
    assert cfg.SEED == 5 and load_config().SEED == -1
