"""Configuration: the defaults of `frozenseg.config_keys` as yacs nodes, YAML files over them, and
KEY VALUE over those.

Only `frozenseg.build` reads a configuration; models get plain arguments.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from frozenseg.config_keys import KEYS
from frozenseg.config_values import Key, check_values, coerce, shown
from frozenseg.errors import UserError, nearest
from frozenseg.recipes import find_config
from frozenseg.yaml_file import read_yaml

logger = logging.getLogger(__name__)

# Keys of published files (detectron2, Mask2Former, FC-CLIP) that mean nothing here. They are
# accepted, whatever they hold, and named once in the log.
IGNORED = (
    "MODEL.RESNETS",
    "MODEL.SWIN",
    "MODEL.BACKBONE.FREEZE_AT",
    "MODEL.BACKBONE.NAME",
    "MODEL.SEM_SEG_HEAD.NAME",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES",  # the data set says how many there are
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",  # and which value of its label maps is none
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME",
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME",
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE",
    "MODEL.MASK_FORMER.ENC_LAYERS",
    "SOLVER.BACKBONE_MULTIPLIER",
    "INPUT.COLOR_AUG_SSD",
    "INPUT.DATASET_MAPPER_NAME",  # the data set says what becomes a mask
    "INPUT.CROP",
    "INPUT.SIZE_DIVISIBILITY",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
)


def default_config() -> CfgNode:
    """All keys of `frozenseg.config_keys` with their defaults."""
    cfg = CfgNode()
    for name, key in KEYS.items():
        _set(cfg, name, copy(key.default))
    return cfg


class Source(NamedTuple):
    """Keys with their values from one place. origin: begins the messages. folder: of a YAML file,
    beside which what it names may lie."""

    origin: str
    pairs: list[tuple[str, Any]]
    folder: Path | None = None


def load_config(
    path: str | Path | None = None,
    options: Sequence[str] | Mapping[str, Any] = (),
    *,
    freeze: bool = True,
) -> CfgNode:
    """Return the defaults, a YAML file with its `_BASE_` over them, and `KEY VALUE ...` options
    over that.

    path may also name a recipe or a model that ships with the package, e.g. "small/frozenseg"
    (`frozenseg.recipes.find_config`). options may also be a mapping of keys to values. Unknown
    keys, keys given twice, values of another type or out of their range and options without value
    are `UserError`s that name the file and the nearest keys. Nothing in a YAML file is ever
    executed.

    Example:
        >>> cfg = frozenseg.load_config("recipe.yaml", {"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": ()})
        >>> cfg.SOLVER.MAX_ITER
        2
    """
    cfg = default_config()
    if path is not None:
        merge_yaml(cfg, path)
    merge_options(cfg, options)
    check_values(KEYS, lambda name: _get(cfg, name))
    if freeze:
        cfg.freeze()
    return cfg


def merge_yaml(cfg: CfgNode, path: str | Path) -> None:
    """Take over the values of a YAML file, those of its `_BASE_` first, by the rules of
    `load_config`. `cfg` may have more keys than ours."""
    tables = read_yaml(find_config(path))
    _merge(cfg, [Source(str(file), flat_values(values), file.parent) for file, values in tables])


def merge_options(cfg: CfgNode, options: Sequence[str] | Mapping[str, Any]) -> None:
    """Take over KEY VALUE ... options, or a mapping of keys to values, as `merge_yaml`."""
    _merge(cfg, [Source("options", option_pairs(options))], repeats=True)


def option_pairs(options: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Options in either form as keys with their values."""
    if isinstance(options, Mapping):
        return flat_values(options)
    if (
        isinstance(options, str)
        or not isinstance(options, Sequence)
        or not all(isinstance(key, str) for key in options[::2])
    ):
        raise UserError(f"options {shown(options)}: KEY, VALUE, ... or a mapping was expected")
    if len(options) % 2:
        raise UserError(f"options must be KEY VALUE pairs; {options[-1]!r} stands alone")
    return list(zip(options[::2], options[1::2], strict=True))


def merge_values(cfg: CfgNode, values: Mapping[str, Any], origin: str) -> None:
    """Take over nested keys, as `merge_yaml`; `origin` begins the messages."""
    _merge(cfg, [Source(origin, flat_values(values))])


def select_config(host: Mapping[str, Any]) -> CfgNode:
    """Our keys alone out of a configuration that has others too (detectron2's), frozen."""
    cfg = default_config()
    known = dict(flat_values(cfg))
    pairs = [pair for pair in flat_values(host) if pair[0] in known]
    _merge(cfg, [Source("configuration", pairs)])
    check_values(KEYS, lambda name: _get(cfg, name))
    cfg.freeze()
    return cfg


def flat_values(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Keys with dots and their values. A section without keys stays, so that it can be checked."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            pairs += flat_values(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _merge(cfg: CfgNode, sources: Iterable[Source], *, repeats: bool = False) -> None:
    """Take over the values of each source in turn. repeats: of a key given twice in one source the
    last counts, as on a command line; otherwise it is an error."""
    known = dict(flat_values(cfg))
    ignored: list[str] = []
    for source in sources:
        keys = set()
        for written, value in source.pairs:
            # FC-CLIP's files hold the same keys under its own name.
            key = re.sub(r"^MODEL\.FC_CLIP\b", "MODEL.FROZEN_SEG", written)
            if key in keys and not repeats:
                raise UserError(f"{source.origin}: {key} is given twice")
            keys.add(key)
            if key in known and not isinstance(known[key], dict):
                spec = KEYS.get(key, Key(known[key]))
                _set(cfg, key, coerce(key, value, spec, source.origin, source.folder))
            elif any(f"{key}.".startswith(f"{name}.") for name in IGNORED):
                ignored.append(key)
            elif value != {} or not any(n.startswith(f"{key}.") for n in (*known, *IGNORED)):
                raise UserError(f"{source.origin}: unknown key {_unknown(key, known)}")
        _choose_test_size(cfg, keys)
    if ignored:
        names = ", ".join(dict.fromkeys(ignored))
        logger.info("%s: accepted without effect: %s", source.origin, names)


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    key = key if key.isprintable() and len(key) <= 80 else shown(key)
    below = sorted(name for name in known if name.startswith(f"{key}."))
    if below:
        return f"{key}: it is a section, with keys like {below[0]}"
    close = nearest(key, list(known))
    if close.startswith("known: "):  # all of them are too many to be read
        close = nearest(key, sorted({name.split(".")[0] for name in known}))
    return f"{key}; {close}"


def flat_config(cfg: CfgNode) -> dict[str, Any]:
    """All keys with dots and their values."""
    return dict(flat_values(cfg))


def _choose_test_size(cfg: CfgNode, keys: set[str]) -> None:
    """Who sets a test size chooses it: a benchmark's own does not come before it any more."""
    sizes = {"INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"}
    if keys & sizes and "INPUT.SIZE_TEST_OF_BENCHMARK" not in keys:
        cfg.INPUT.SIZE_TEST_OF_BENCHMARK = False


def _get(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        if part not in cfg:
            cfg[part] = CfgNode()
        cfg = cfg[part]
    cfg[last] = value
