"""Build vocabularies from a configuration: the classes of a data set, and the seen classes.

This module reads DATASETS.VOCABULARY, VOCABULARIES, VOCABULARY_JOIN and TRAIN_VOCABULARY.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from frozenseg.build.setting import setting
from frozenseg.data.benchmarks import (
    benchmark_categories,
    benchmark_vocabulary,
    class_names,
    data_root,
    find_benchmark,
    is_data_set,
)
from frozenseg.data.records import Categories
from frozenseg.errors import UserError
from frozenseg.notes import note
from frozenseg.text.names import shown
from frozenseg.text.parsing import FILES, rows_of
from frozenseg.text.vocabulary import Vocabulary, is_known_stuff

INLINE = "classes:"  # prefix of a TRAIN_VOCABULARY that contains the names themselves, as JSON


def build_vocabulary(cfg: CfgNode, name: str, categories: Categories) -> Vocabulary:
    """Return the names of a data set's classes, in the order of its class ids.

    The names come from the list in DATASETS.VOCABULARIES or VOCABULARY, else from the list of the
    benchmark's row; `frozenseg.text.joining` joins the list with the annotation. Without a list,
    the names are those of the annotation.
    """
    row, listed = find_benchmark(name), listed_vocabulary(cfg, name)
    if listed is None and not row.vocabulary and any("," in name for name in categories.names):
        note(f"{name}: to give its classes synonyms, name a list of them in DATASETS.VOCABULARIES")
    return class_names(row, data_root(), categories, listed=listed, by_order=joins_by_order(cfg))


def one_vocabulary(
    cfg: CfgNode,
    names: Sequence[str],
    categories: Categories,
    build: Callable[[CfgNode, str, Categories], Vocabulary] = build_vocabulary,
) -> Vocabulary:
    """Return the names of the classes of several training sets, which are those of the first set;
    a list in DATASETS.VOCABULARIES for another set must agree with them."""
    vocabulary = build(cfg, names[0], categories)
    for name in names[1:]:
        if name in _of_set(cfg) and build(cfg, name, categories).names != vocabulary.names:
            raise UserError(
                f"DATASETS.VOCABULARIES: {name} has other names than {names[0]}; give both one list"
            )
    return vocabulary


def listed_vocabulary(cfg: CfgNode, name: str) -> Vocabulary | None:
    """Read the list that the configuration names for a data set; None if it names none."""
    if value := _of_set(cfg).get(name):
        return named_list(value, "DATASETS.VOCABULARIES")
    value = cfg.DATASETS.VOCABULARY
    return named_list(value, "DATASETS.VOCABULARY") if value else None


def _of_set(cfg: CfgNode) -> dict[str, str]:
    """Parse DATASETS.VOCABULARIES into {data set: list}."""
    lists: dict[str, str] = {}
    known = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    for pair in cfg.DATASETS.VOCABULARIES:
        name, _, value = str(pair).rpartition("=")
        if not name or not value:
            raise UserError(f"DATASETS.VOCABULARIES {pair!r}: SET=LIST was expected")
        if name not in known:
            raise UserError(
                f"DATASETS.VOCABULARIES {pair!r}: neither DATASETS.TRAIN nor DATASETS.TEST has "
                f"the set; they have {', '.join(known)}"
            )
        if name in lists:
            raise UserError(f"DATASETS.VOCABULARIES names {name} twice; give it one list")
        lists[name] = value
    return lists


def joins_by_order(cfg: CfgNode) -> bool:
    """Tell whether DATASETS.VOCABULARY_JOIN is "order"."""
    return cfg.DATASETS.VOCABULARY_JOIN == "order"


def named_list(value: str, key: str) -> Vocabulary:
    """Read a class list, either a file or a list of the package. key: the key that names it."""
    path = Path(value)
    with setting(f"{key}:"):
        if path.suffix.lower() in FILES or len(path.parts) > 1:
            return Vocabulary.from_file(path)
        return Vocabulary.packaged(value)


def build_training_vocabulary(cfg: CfgNode) -> Vocabulary:
    """Return the seen classes: DATASETS.TRAIN_VOCABULARY, else the classes of DATASETS.TRAIN."""
    value = cfg.DATASETS.TRAIN_VOCABULARY
    if value.startswith(INLINE):
        return _inline(value)
    if value and not is_data_set(value):
        return named_list(value, "DATASETS.TRAIN_VOCABULARY")
    if not value and not cfg.DATASETS.TRAIN:
        raise UserError(
            "DATASETS.TRAIN is empty: name the data set that the model was trained on, or its "
            "classes in DATASETS.TRAIN_VOCABULARY, so that seen classes are known"
        )
    return _names_of_set(cfg, value or cfg.DATASETS.TRAIN[0])


def build_seen_vocabulary(cfg: CfgNode, name: str) -> Vocabulary:
    """Return the seen classes for an evaluation on the data set `name`.

    The row of a few-shot fold names the data set of its training; otherwise the configuration does.
    """
    trained_on = find_benchmark(name).trained_on
    return _names_of_set(cfg, trained_on) if trained_on else build_training_vocabulary(cfg)


def _names_of_set(cfg: CfgNode, name: str) -> Vocabulary:
    """Return the names of all classes of a data set; its annotation is read only without a list.

    DATASETS.VOCABULARY does not count here, because it may be meant for the sets of DATASETS.TEST.
    """
    row, value = find_benchmark(name), _of_set(cfg).get(name)
    if value:
        return named_list(value, "DATASETS.VOCABULARIES")
    own = benchmark_vocabulary(row, data_root())
    if own is not None:
        return own
    try:
        return class_names(row, data_root(), benchmark_categories(row, data_root()))
    except UserError as error:
        raise UserError(
            f"{error}; this data set is read to find the seen classes; to do without it, name the "
            "classes of the training in DATASETS.TRAIN_VOCABULARY"
        ) from None


def settle_training_vocabulary(cfg: CfgNode) -> None:
    """Write the class names of a training into DATASETS.TRAIN_VOCABULARY if they come from files or
    from DATASETS.VOCABULARY.

    The names are then still known on a machine without these files.
    """
    if cfg.DATASETS.TRAIN_VOCABULARY or not cfg.DATASETS.TRAIN:
        return
    name = cfg.DATASETS.TRAIN[0]
    row = find_benchmark(name)
    packaged = row.vocabulary and not row.own_list
    if packaged and listed_vocabulary(cfg, name) is None:
        return
    vocabulary = build_vocabulary(cfg, name, benchmark_categories(row, data_root()))
    cfg.DATASETS.TRAIN_VOCABULARY = INLINE + json.dumps(vocabulary.names)


def require_seen(cfg: CfgNode, vocabulary: Vocabulary) -> None:
    """Raise `UserError` if a training uses the configuration of another training, or of its own
    beginning with other names in the annotation, whose classes would count as seen instead.

    vocabulary: the classes that are trained on. A list that the user names is not checked, as it
        may lack some of them on purpose.
    """
    if not cfg.DATASETS.TRAIN_VOCABULARY.startswith(INLINE):
        return
    seen = vocabulary.seen(build_training_vocabulary(cfg))
    if not all(seen):
        raise UserError(
            "DATASETS.TRAIN_VOCABULARY holds the classes of another training, and "
            f"{shown(vocabulary.labels[seen.index(False)])} of DATASETS.TRAIN would count as "
            'unseen; set it to "" for the classes of DATASETS.TRAIN, or to a list of all seen ones'
        )


def require_same_order(cfg: CfgNode, vocabulary: Vocabulary) -> None:
    """Raise `UserError` if the run to be resumed has begun with the same classes in another order.

    The names in the annotation were then swapped, and the decoder would learn each mask by the name
    of another class. vocabulary: the classes that are trained on.
    """
    if not cfg.DATASETS.TRAIN_VOCABULARY.startswith(INLINE):
        return
    before, now = build_training_vocabulary(cfg).names, vocabulary.names
    if before != now and sorted(before) == sorted(now):
        first = next(index for index, names in enumerate(now) if names != before[index])
        raise UserError(
            f"class {first} of DATASETS.TRAIN is now {shown(', '.join(now[first]))}; when the run "
            f"began, it was {shown(', '.join(before[first]))} (DATASETS.TRAIN_VOCABULARY): give "
            "the classes their old names again, or train anew in another OUTPUT_DIR"
        )


def _inline(value: str) -> Vocabulary:
    try:
        names = json.loads(value.removeprefix(INLINE))
    except (ValueError, RecursionError) as error:
        raise UserError(f"DATASETS.TRAIN_VOCABULARY: no JSON after {INLINE} ({error})") from None
    if not isinstance(names, list) or not all(isinstance(group, list) for group in names):
        raise UserError(f"DATASETS.TRAIN_VOCABULARY: lists of names were expected after {INLINE}")
    # A list of seen classes may repeat a name, as some published lists do.
    groups = tuple(row.names for row in rows_of(names, "DATASETS.TRAIN_VOCABULARY"))
    return Vocabulary(groups, tuple(not is_known_stuff(group) for group in groups), "the training")
