"""What the values of configuration keys may be: types, ranges, choices, paths.

Every key with a number has a row in `RANGES` (a test holds this), every key with a few choices one
in `CHOICES`. The keys themselves are explained in `frozenseg.config`.
"""

import ast
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.errors import UserError, nearest
from frozenseg.files import user_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Range:
    """The numbers that a key takes, or that each entry of a list takes.

    low, high: the bounds, which are allowed themselves.
    above: whether `low` is not allowed. below: whether `high` is not allowed.
    only: the few numbers that are allowed, in place of bounds.
    length: the number of entries of a list; None: any number, or the key has no list.
    """

    low: float = 0
    high: float = 0
    above: bool = False
    below: bool = False
    only: tuple[float, ...] = ()
    length: int | None = None

    def holds(self, number: float) -> bool:
        """Whether a number is allowed; NaN never is."""
        if self.only:
            return number in self.only
        low = number > self.low if self.above else number >= self.low
        return low and (number < self.high if self.below else number <= self.high)

    def __str__(self) -> str:
        if self.only:
            *first, last = (f"{number:g}" for number in self.only)
            return f"{', '.join(first)} or {last}"
        low = f"above {_plain(self.low)}" if self.above else f"at least {_plain(self.low)}"
        high = f"below {_plain(self.high)}" if self.below else f"at most {_plain(self.high)}"
        return f"{low} and {high}"


def _plain(number: float) -> str:
    return f"{int(number)}" if number == int(number) and abs(number) < 1e12 else f"{number:g}"


SHARE = Range(0, 1)
FACTOR = Range(0, 1e6)  # of a loss
SIZE = Range(1, 16384)  # pixels, or channels
COUNT = Range(1, 100_000)
STEPS = Range(0, 10**9)

RANGES: dict[str, Range] = {
    "SEED": Range(-1, 2**32 - 1),
    "MODEL.PIXEL_MEAN": Range(-1000, 1000, length=3),
    "MODEL.PIXEL_STD": Range(0, 1000, above=True, length=3),
    "MODEL.FROZEN_SEG.EMBED_DIM": SIZE,
    "MODEL.FROZEN_SEG.GEOMETRIC_ENSEMBLE_ALPHA": SHARE,
    "MODEL.FROZEN_SEG.GEOMETRIC_ENSEMBLE_BETA": SHARE,
    "MODEL.FROZEN_SEG.SAM_ENCODER_LEVELS": Range(only=(1, 3)),
    "MODEL.FUSIONER.DIM": SIZE,
    "MODEL.FUSIONER.NUM_HEADS": Range(1, 256),
    "MODEL.FUSIONER.HIDDEN_DIM": Range(1, 65536),
    "MODEL.FUSIONER.NUM_LAYERS": Range(1, 200),
    "MODEL.FUSIONER.DECODER_DOUBLINGS": Range(only=(0, 1, 2, 3)),
    "MODEL.FUSIONER.TEMPERATURE": Range(0, 1000, above=True),
    "MODEL.FUSIONER.CLASSES_AT_ONCE": Range(0, 100_000),
    "MODEL.FUSIONER.WINDOW": Range(0, 16384),
    "MODEL.FUSIONER.WINDOW_STRIDE": SIZE,
    "MODEL.FUSIONER.WINDOW_PADDING": Range(-1000, 1000),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": SIZE,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": SIZE,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": Range(0, 200),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": Range(1, 256),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": Range(1, 256),
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": Range(1, 10_000),
    "MODEL.MASK_FORMER.HIDDEN_DIM": SIZE,
    "MODEL.MASK_FORMER.NHEADS": Range(1, 256),
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": Range(1, 65536),
    "MODEL.MASK_FORMER.DEC_LAYERS": Range(1, 200),
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": Range(1, 4096),
    "MODEL.MASK_FORMER.SAM_QUERY_FUSE_LAYER": Range(only=(0, 1, 2)),
    "MODEL.MASK_FORMER.SAM_FEATURE_FUSE_LAYER": Range(only=(0, 1, 2)),
    "MODEL.MASK_FORMER.CLASS_WEIGHT": FACTOR,
    "MODEL.MASK_FORMER.MASK_WEIGHT": FACTOR,
    "MODEL.MASK_FORMER.DICE_WEIGHT": FACTOR,
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": FACTOR,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": Range(1, 10**7),
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": Range(1, 100),
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": SHARE,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": SHARE,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": SHARE,
    "INPUT.IMAGE_SIZE": SIZE,
    "INPUT.MIN_SCALE": Range(0, 100, above=True),
    "INPUT.MAX_SCALE": Range(0, 100, above=True),
    "INPUT.FLIP_PROBABILITY": SHARE,
    "INPUT.MIN_SIZE_TEST": Range(0, 16384),
    "INPUT.MAX_SIZE_TEST": SIZE,
    "DATALOADER.NUM_WORKERS": Range(0, 1024),
    "DATALOADER.FEATURE_CACHE_GB": Range(0, 1e9, above=True),
    "SOLVER.IMS_PER_BATCH": COUNT,
    "SOLVER.ACCUMULATE": COUNT,
    "SOLVER.BASE_LR": SHARE,
    "SOLVER.WEIGHT_DECAY": SHARE,
    "SOLVER.WEIGHT_DECAY_NORM": SHARE,
    "SOLVER.WEIGHT_DECAY_EMBED": SHARE,
    "SOLVER.WEIGHT_DECAY_END": SHARE,
    "SOLVER.BASE_LR_END": SHARE,
    "SOLVER.MAX_ITER": STEPS,
    "SOLVER.STEPS": STEPS,
    "SOLVER.GAMMA": SHARE,
    "SOLVER.WARMUP_FACTOR": SHARE,
    "SOLVER.WARMUP_ITERS": STEPS,
    "SOLVER.EMA": Range(0, 1, below=True),
    "SOLVER.CHECKPOINT_PERIOD": STEPS,
    "SOLVER.CHECKPOINT_KEEP": COUNT,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": Range(0, 1e6, above=True),
    "TEST.EVAL_PERIOD": STEPS,
    "TEST.IMS_PER_BATCH": COUNT,
    "TEST.DETECTIONS_PER_IMAGE": COUNT,
    "TEST.SAM_MASK_PRED_ALPHA": SHARE,
    "TEST.SAM_MASKS.THRESHOLD": SHARE,
    "TEST.SAM_MASKS.WEIGHT": SHARE,
    "TEST.SAM_MASKS.POINTS_PER_SIDE": Range(1, 1024),
    "TEST.SAM_MASKS.PREDICTED_IOU": SHARE,
    "TEST.SAM_MASKS.STABILITY": SHARE,
    "TEST.SAM_MASKS.MIN_REGION_AREA": STEPS,
    "TEST.SAM_MASKS.MAX_MASKS": COUNT,
    "TEST.AUG.MIN_SIZES": SIZE,
    "TEST.AUG.MAX_SIZE": SIZE,
    "LOG.PERIOD": Range(1, 10**9),
    "LOG.PICTURES": Range(0, 10_000),
}

YES_NO = ("auto", "yes", "no")
CHOICES: dict[str, tuple[str, ...]] = {
    "MODEL.PRECISION": ("auto", "fp32", "tf32", "bf16", "fp16"),
    "MODEL.RECOMPUTE": ("auto", "always", "never"),
    "MODEL.FROZEN_SEG.CLIP_QUICK_GELU": YES_NO,
    "MODEL.FROZEN_SEG.SAM_VIEW": ("stretch", "keep_aspect"),
    "MODEL.FUSIONER.VISUAL": ("clip", "dino", "moco", "sam"),
    "MODEL.FUSIONER.VISUAL_QUICK_GELU": YES_NO,
    "MODEL.FUSIONER.TEXT": ("clip", "bert"),
    "MODEL.FUSIONER.TEXT_QUICK_GELU": YES_NO,
    "MODEL.FUSIONER.FUSION": ("early", "late"),
    "INPUT.PADDING": ("grey", "zeros"),
    "DATASETS.VOCABULARY_JOIN": ("names", "order"),
    "SOLVER.WEIGHT_DECAY_RULE": ("modules", "tables", "matrices"),
    "SOLVER.WEIGHT_DECAY_SCHEDULE": ("constant", "cosine"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR"),
}

# Keys that name files or folders, all of which take "~". What is read is looked for in the folder
# one works in, then beside the YAML file that names it and in the folders above that.
WRITTEN = ("OUTPUT_DIR", "DATALOADER.FEATURE_CACHE")
READ = (
    "MODEL.WEIGHTS",
    "MODEL.SAM_WEIGHTS",
    "MODEL.TEXT.TEMPLATES",
    "MODEL.FROZEN_SEG.CLIP_PRETRAINED_WEIGHTS",
    "MODEL.FUSIONER.VISUAL_WEIGHTS",
    "MODEL.FUSIONER.TEXT_WEIGHTS",
    "DATASETS.VOCABULARY",
    "DATASETS.TRAIN_VOCABULARY",
    "TEST.SAM_MASKS.WEIGHTS",
    "TEST.SAM_MASKS.FOLDER",
)


def coerce(key: str, value: Any, default: Any, origin: str, folder: Path | None = None) -> Any:
    """Convert a value to the type of the default of its key; raise `UserError` if that fails.

    A list may be given as a tuple, a float as a whole number, and numbers of numpy and paths are
    taken too. origin: begins the messages. folder: that of the YAML file with the value.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        # YAML reads ("a", "b") and 1e-4 as text, and all options of a command line are text.
        literal = _literal(value)
        # The name of a folder may spell a number, as 2026_11 does, so text stays text.
        if isinstance(literal, str) or not isinstance(default, str):
            value = literal
    if CHOICES.get(key) == YES_NO and isinstance(value, (bool, str)):
        said = str(value).lower()  # YAML reads yes and no as truth values
        value = {"true": "yes", "false": "no"}.get(said, said)
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        whole = bool(default) and all(isinstance(entry, int) for entry in default)
        return type(default)(_element(key, entry, origin, whole=whole) for entry in value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = _float(value)
    if isinstance(default, str) and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    # A default of None, in keys of detectron2, takes anything.
    if type(value) is not type(default) and default is not None:
        raise UserError(
            f"{origin}: {key} is {shown(value)} ({type(value).__name__}), "
            f"a {type(default).__name__} was expected, e.g. {default!r}"
        )
    if isinstance(value, str):
        _refuse_unwritable(key, value, origin)
        if key in WRITTEN or key in READ:
            return _path(key, value, folder)
    return value


def _element(key: str, entry: Any, origin: str, *, whole: bool) -> Any:
    """Convert an entry of a list: names for data sets, and a number where the key has a range.

    whole: the number must be whole, as those of the default are. Other keys take anything.
    """
    if key.startswith("DATASETS."):
        if not isinstance(entry, str):
            raise UserError(f"{origin}: {key} holds {shown(entry)}, names were expected")
        return entry
    if isinstance(entry, str) and isinstance(number := _literal(entry), (int, float)):
        entry = number
    elif isinstance(entry, (list, tuple)):
        entry = [_element("", part, origin, whole=False) for part in entry]
    if key not in RANGES:
        return entry
    if isinstance(entry, bool) or not isinstance(entry, (int, float)):
        raise UserError(f"{origin}: {key} holds {shown(entry)}, numbers were expected")
    if whole and isinstance(entry, float) and math.isfinite(entry):
        if not entry.is_integer():
            raise UserError(f"{origin}: {key} holds {shown(entry)}, whole numbers were expected")
        entry = int(entry)
    return entry


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def _refuse_unwritable(key: str, text: str, origin: str) -> None:
    """Refuse text with half a character or a NUL, which no file can hold."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"{origin}: {key} is {shown(text)}: not text that can be written to a file")


def _literal(text: str) -> Any:
    """Read the Python literal that a text spells, or return the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text.lower(), text)


def shown(value: Any, most: int = 80, *, quoted: bool = True) -> str:
    """Format a value for a message, cut to `most` characters. quoted: put text in quotes."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**most:
        return "a number of more digits than can be shown"
    text = value if isinstance(value, str) and value.isprintable() and not quoted else repr(value)
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _path(key: str, text: str, folder: Path | None) -> str:
    if text.startswith("~"):
        text = str(user_path(text))
    path = Path(text)
    named = os.sep in text or path.suffix  # else a tag or a name
    if key in WRITTEN or folder is None or not named or path.is_absolute() or "://" in text:
        return text
    if not os.path.exists(text):
        for place in (folder.absolute(), *folder.absolute().parents):
            if os.path.exists(place / path):
                logger.info("%s %s: taken from %s", key, text, place)
                return str(place / path)
    return text


def check_values(value_of: Callable[[str], Any]) -> None:
    """Refuse numbers out of their range and texts that are no choice.

    value_of: returns the value of a key.
    """
    for key, bounds in RANGES.items():
        value = value_of(key)
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if bounds.length is not None and len(numbers) != bounds.length:
            raise UserError(f"{key} {shown(value)}: {bounds.length} numbers are needed")
        for number in numbers:
            if not bounds.holds(number):
                raise UserError(f"{key} {shown(value)}: must be {bounds}")
    for key, choices in CHOICES.items():
        if (value := value_of(key)) not in choices:
            raise UserError(
                f"{key} {shown(value, quoted=False)}: must be one of {', '.join(choices)}; "
                f"{nearest(value, list(choices))}"
            )
    low, high = value_of("INPUT.MIN_SCALE"), value_of("INPUT.MAX_SCALE")
    if low > high:
        raise UserError(f"INPUT.MIN_SCALE {low}: must not be above INPUT.MAX_SCALE {high}")
