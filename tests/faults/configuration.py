"""Configuration files and KEY VALUE options."""

from tests.faults.table import Case, Make, both, raw

DEMO = "demo --config-file x.yaml --input world/data/images --output out --vocabulary car"
TRAIN = "train_net --config-file world/tiny.yaml OUTPUT_DIR out"

# Values beyond the range of their key, each of which once gave a traceback or a wrong result.
REFUSED = """
DATALOADER.FEATURE_CACHE_GB -1.0 0.0 nan 1e30
DATALOADER.NUM_WORKERS -1 1000000000
INPUT.FLIP_PROBABILITY -1.0 nan 1e30 inf
INPUT.IMAGE_SIZE 0 1000000000
INPUT.MAX_SCALE 0.0 inf -1.0 nan 1e30
INPUT.MAX_SIZE_TEST -1 0 1000000000
INPUT.MIN_SCALE -1.0 nan 1e30 0.0 inf
INPUT.MIN_SIZE_TEST -1 1000000000
LOG.PERIOD -1 0
LOG.PICTURES -1 1000000000
MODEL.FROZEN_SEG.GEOMETRIC_ENSEMBLE_ALPHA inf -1.0 nan 1e30
MODEL.FROZEN_SEG.GEOMETRIC_ENSEMBLE_BETA -1.0 nan 1e30 inf
MODEL.FUSIONER.DIM -1 1000000000
MODEL.FUSIONER.NUM_HEADS -1 0 1000000000
MODEL.FUSIONER.TEMPERATURE -1.0 nan inf
MODEL.MASK_FORMER.CLASS_WEIGHT -1.0 1e30
MODEL.MASK_FORMER.DEC_LAYERS -1 1000000000 0
MODEL.MASK_FORMER.DICE_WEIGHT -1.0
MODEL.MASK_FORMER.DIM_FEEDFORWARD 0 -1 1000000000
MODEL.MASK_FORMER.MASK_WEIGHT -1.0
MODEL.MASK_FORMER.NHEADS -1 1000000000 0
MODEL.MASK_FORMER.NUM_OBJECT_QUERIES -1 1000000000 0
MODEL.MASK_FORMER.OVERSAMPLE_RATIO inf nan 1e30
MODEL.MASK_FORMER.SIZE_DIVISIBILITY 0 -1
MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD inf nan 1e30 -1.0
MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD nan 1e30 inf -1.0
MODEL.MASK_FORMER.TRAIN_NUM_POINTS 1000000000
MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS 0 -1 1000000000
MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS -1 1000000000 0
MODEL.SEM_SEG_HEAD.MASK_DIM -1 1000000000 0
MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS -1 1000000000
SOLVER.BASE_LR -1.0 nan 1e30
SOLVER.CHECKPOINT_KEEP 0
SOLVER.CHECKPOINT_PERIOD -1
SOLVER.CLIP_GRADIENTS.CLIP_VALUE -1.0 nan
SOLVER.EMA 1.0 nan
SOLVER.GAMMA -1.0 nan 1e30 inf
SOLVER.IMS_PER_BATCH 0 1000000000
SOLVER.MAX_ITER -1
SOLVER.STEPS ('a',) (-1,)
SOLVER.WARMUP_FACTOR -1.0 1e30
SOLVER.WARMUP_ITERS -1
SOLVER.WEIGHT_DECAY -1.0
SOLVER.WEIGHT_DECAY_EMBED -1.0
SOLVER.WEIGHT_DECAY_NORM -1.0
TEST.AUG.MAX_SIZE -1 0
TEST.AUG.MIN_SIZES [] [-1] ['a'] [0]
TEST.DETECTIONS_PER_IMAGE -1 0 1000000000
TEST.EVAL_PERIOD -1
TEST.SAM_MASKS.MIN_REGION_AREA -1
TEST.SAM_MASKS.POINTS_PER_SIDE 1000000000
TEST.SAM_MASKS.PREDICTED_IOU nan -1.0
TEST.SAM_MASKS.STABILITY nan inf
TEST.SAM_MASKS.THRESHOLD nan
TEST.SAM_MASKS.WEIGHT -1.0 nan inf
TEST.SAM_MASK_PRED_ALPHA -1.0 nan inf
"""


def _refused() -> list[Case]:
    rows = [line.split() for line in REFUSED.strip().splitlines()]
    return [
        Case(
            f"{key}={value}",
            f'{TRAIN} {key} "{value}"',
            words=f"error: .*{key}",
            fast=n == 0 and key.startswith("TEST."),
        )
        for key, *values in rows
        for n, value in enumerate(values)
    ]


def _nested(count: int) -> str:
    return "{a: " * count + "1" + "}" * count


def _laughs(last: str) -> str:
    lines = ["L0: &l0 {a: 1, b: 2, c: 3, d: 4, e: 5, f: 6, g: 7, h: 8, i: 9}"]
    for level in range(1, 9):
        entries = ", ".join(f"{key}: *l{level - 1}" for key in "abcdefghi")
        lines.append(f"L{level}: &l{level} {{{entries}}}")
    return "\n".join([*lines, last])


def _list_of_laughs() -> str:
    lines = ["SEED:", "  - &l0 [1,1,1,1,1,1,1,1,1]"]
    lines += [f"  - &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(lines)


def _chain(count: int) -> Make:
    def make(world, folder):  # type: ignore[no-untyped-def]
        for number in range(count):
            (folder / f"{number}.yaml").write_text(f"_BASE_: {number + 1}.yaml\n")
        (folder / f"{count}.yaml").write_text("SEED: 1\n")
        (folder / "x.yaml").write_text("_BASE_: 0.yaml\n")

    return make


def _fifo(world, folder):  # type: ignore[no-untyped-def]
    import os

    os.mkfifo(folder / "fifo.yaml")
    (folder / "x.yaml").write_text("_BASE_: fifo.yaml\n")


# name, text of the file, what the line says
FILES = [
    ("base_dir", "_BASE_: .", "_BASE_"),
    ("base_empty_str", '_BASE_: ""', "_BASE_ is ''"),
    ("base_int", "_BASE_: 3", "_BASE_ is 3"),
    ("base_null", "_BASE_:\nSEED: 1", "_BASE_ is None"),
    ("base_loop", "_BASE_: x.yaml", "leads back to itself"),
    ("base_missing", "_BASE_: y.yaml", "missing"),
    ("base_passwd", "_BASE_: /etc/passwd", "/etc/passwd"),
    ("base_devzero", "_BASE_: /dev/zero", "no file"),
    ("base_url", "_BASE_: https://example.com/a.yaml", "an address"),
    ("base_out_of_package", "_BASE_: frozenseg://../../pyproject.toml", "leads out of the package"),
    ("dup_keys", "SEED: 1\nSEED: 2", "SEED is given twice"),
    ("dup_nested", "MODEL: {DEVICE: nonsense}\nMODEL: {COMPILE: False}", "MODEL is given twice"),
    ("unknown_key", "SEDE: 1", "unknown key SEDE; did you mean"),
    ("unknown_empty_node", "MODELL: {}", "unknown key MODELL; did you mean MODEL"),
    ("scalar_as_node", "SEED: {A: 1}", r"unknown key SEED\.A"),
    ("scalar_empty_node", "SEED: {}", "SEED"),
    ("list_len", "MODEL: {PIXEL_MEAN: [1.0]}", "PIXEL_MEAN .*3 numbers"),
    ("list_types", "MODEL: {PIXEL_MEAN: [a, b, c]}", "PIXEL_MEAN holds 'a'"),
    ("std_zero", "MODEL: {PIXEL_STD: [0.0, 0.0, 0.0]}", "PIXEL_STD .*above 0"),
    ("std_nan", "MODEL: {PIXEL_STD: [.nan, 1.0, 1.0]}", "PIXEL_STD holds"),
    ("gamma_nan", "SOLVER: {GAMMA: .nan}", "GAMMA is"),
    ("clip_negative", "SOLVER: {CLIP_GRADIENTS: {CLIP_VALUE: -1.0}}", "CLIP_VALUE .*must be above"),
    ("seed_huge", f"SEED: {'9' * 23}", "SEED .*must be"),
    ("long_scalar", f"SEED: {'9' * 10000}", "SEED"),
    ("deep_nest_flow", f"X: {_nested(3000)}", "inside each other"),
    ("deep_nest_list", f"X: {'[' * 3000}{']' * 3000}", "inside each other"),
    ("self_ref_dict", "MODEL: &m {SUB: *m}", "inside each other|itself"),
    ("self_ref_list", "MODEL: {PIXEL_MEAN: &m [*m]}", "inside each other|itself"),
    ("laughs_dict", _laughs("X: *l8"), "aliases written out"),
    ("laughs_list_wrongtype", _list_of_laughs(), "aliases written out"),
    ("merge_bomb", _laughs("MODEL:\n  <<: *l8"), "aliases written out"),
    ("many_bytes", "# " + "x" * 400_000, "bytes are too many"),
    ("executes", "SEED: !!python/object/apply:os.system ['touch gone']", "cannot be read"),
    ("list", "- 1", "a table of keys was expected"),
    ("binary", b"\x00\xff\xfe" * 9, "cannot be read"),
    ("latin1", "OUTPUT_DIR: caf\xe9".encode("latin-1"), "UTF-8"),
    ("surrogate", 'OUTPUT_DIR: "a\\ud800b"', "not text|cannot be read"),
]

CASES = [
    *_refused(),
    *(Case(name, DEMO, words=words, make=raw("x.yaml", text), fast=True)
      for name, text, words in FILES),
    Case("base_fifo", DEMO, words="no file", make=_fifo, fast=True),
    Case("base_chain", DEMO, words="more than 50 files|missing", make=_chain(300), fast=True),
    Case("fifo_itself", DEMO.replace("x.yaml", "fifo.yaml"), words="no such file|no file|cannot",
         make=both(_fifo), fast=True),
    Case("option_deep", f'{TRAIN} SEED "{"(" * 5000}"', words="SEED"),
    Case("option_many_digits", f"{TRAIN} SEED 0x{'f' * 9000}", words="SEED", fast=True),
    Case("option_stands_alone", f"{TRAIN} SEED", words="stands alone", fast=True),
]  # fmt: skip
