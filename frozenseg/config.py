"""The configuration as yacs nodes: defaults, which YAML files and KEY VALUE options override.

The defaults are in `frozenseg.config_keys`. Options take precedence over YAML files. Only
`frozenseg.build` reads a configuration; models get plain arguments.
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

# Keys of published configuration files (detectron2, Mask2Former, FC-CLIP) that have no effect here.
# They are accepted with any value and named once in the log.
IGNORED = (
    "MODEL.RESNETS",
    "MODEL.SWIN",
    "MODEL.BACKBONE.FREEZE_AT",
    "MODEL.BACKBONE.NAME",
    "MODEL.SEM_SEG_HEAD.NAME",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES",  # the data set determines the number of classes
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",  # and the value of unlabelled pixels in its label maps
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME",
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME",
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE",
    "MODEL.MASK_FORMER.ENC_LAYERS",
    "SOLVER.BACKBONE_MULTIPLIER",
    "INPUT.COLOR_AUG_SSD",
    "INPUT.DATASET_MAPPER_NAME",  # the data set determines how annotations become masks
    "INPUT.CROP",
    "INPUT.SIZE_DIVISIBILITY",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
)


def default_config() -> CfgNode:
    """Return all keys of `frozenseg.config_keys` with their defaults."""
    cfg = CfgNode()
    for name, key in KEYS.items():
        _set(cfg, name, copy(key.default))
    return cfg


class Source(NamedTuple):
    """Keys with their values from one source.

    origin: names the source at the beginning of error messages.
    folder: the folder of a YAML file; the files that it names may lie there. None for options.
    """

    origin: str
    pairs: list[tuple[str, Any]]
    folder: Path | None = None


def load_config(
    path: str | Path | None = None,
    options: Sequence[str] | Mapping[str, Any] = (),
    *,
    freeze: bool = True,
) -> CfgNode:
    """Return the defaults, overridden by a YAML file with its `_BASE_`, then by the options.

    path: a YAML file, or the name of a recipe or model that ships with the package, e.g.
        "small/frozenseg" (see `frozenseg.recipes.find_config`). None: only the defaults.
    options: `KEY VALUE ...` as a flat list, or a mapping of keys to values.
    freeze: make the configuration immutable.

    Unknown keys, keys that a YAML file gives twice, values of the wrong type or out of range, and
    options without a value raise a `UserError` that names the file and the nearest keys. Nothing in
    a YAML file is ever executed.

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
    """Merge a YAML file into `cfg`, after the files of its `_BASE_`, by the rules of `load_config`.

    `cfg` may also have keys that are not in `frozenseg.config_keys`.
    """
    tables = read_yaml(find_config(path))
    _merge(cfg, [Source(str(file), flat_values(values), file.parent) for file, values in tables])


def merge_options(cfg: CfgNode, options: Sequence[str] | Mapping[str, Any]) -> None:
    """Merge KEY VALUE ... options, or a mapping of keys to values, by the rules of `load_config`.

    Where a key is given more than once, the last value counts.
    """
    _merge(cfg, [Source("options", option_pairs(options))], repeats=True)


def option_pairs(options: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return options of either form as pairs of a key and its value."""
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
    """Merge nested tables of keys, as `merge_yaml` does; `origin` begins the error messages."""
    _merge(cfg, [Source(origin, flat_values(values))])


def select_config(host: Mapping[str, Any]) -> CfgNode:
    """Return only our keys from a configuration that also has others (detectron2's), frozen."""
    cfg = default_config()
    known = dict(flat_values(cfg))
    pairs = [pair for pair in flat_values(host) if pair[0] in known]
    _merge(cfg, [Source("configuration", pairs)])
    check_values(KEYS, lambda name: _get(cfg, name))
    cfg.freeze()
    return cfg


def flat_values(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Flatten nested tables to dotted keys and their values.

    An empty section is kept as a key with the value {}, so that its name can be checked.
    """
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            pairs += flat_values(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _merge(cfg: CfgNode, sources: Iterable[Source], *, repeats: bool = False) -> None:
    """Merge the values of each source in turn.

    repeats: whether one source may give a key twice; as on a command line, the last value counts.
    Otherwise a repeated key is an error.
    """
    known = dict(flat_values(cfg))
    ignored: list[str] = []
    for source in sources:
        keys = set()
        for written, value in source.pairs:
            # The configuration files of FC-CLIP have the same keys in a section of their own name.
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
    if close.startswith("known: "):  # a list of all keys would be too long, so name the sections
        close = nearest(key, sorted({name.split(".")[0] for name in known}))
    return f"{key}; {close}"


def flat_config(cfg: CfgNode) -> dict[str, Any]:
    """Return a dict of all dotted keys and their values."""
    return dict(flat_values(cfg))


def _choose_test_size(cfg: CfgNode, keys: set[str]) -> None:
    """Let a test size that the user sets take precedence over the test size of a benchmark."""
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
