"""Match the classes of a list with the categories of an annotation, by numbers, order or names."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from frozenseg.errors import UserError
from frozenseg.text.names import shown, spelling
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

# The maximum share of classes whose names in the list and the annotation have no word in common.
OTHER_NAMES = 0.2


def join(
    listed: Vocabulary,
    names: Sequence[str],
    ids: Sequence[int],
    annotation: str,
    *,
    in_order: bool = False,
) -> Vocabulary:
    """Return the classes of a list, in the order of an annotation's categories.

    A list whose numbers are the category ids is joined by number, and a list of the same length by
    order, unless a name contradicts this. Otherwise names decide: every category needs a class of
    its own in the list, which may have further classes.

    names: the names of the categories.
    ids: the ids of the categories.
    annotation: where the categories were read, for messages.
    in_order: whether the order of the list is fixed, as for a benchmark whose label maps use it; an
        annotation with other classes or in another order is then refused.

    Raises `UserError` that names the first differing pair if numbers and names contradict each
    other, or if names do not assign a class to every category.
    """
    pairs = _Pairs(listed, names)
    if in_order and len(listed) != len(names):
        raise _other_count(listed, names, annotation)
    numbered = listed.ids is not None and set(listed.ids) == set(ids)
    if numbered or len(listed) == len(names):
        order = _numeric_order(listed, ids) if numbered else list(range(len(names)))
        wrong = [i for i, class_id in enumerate(order) if pairs.contradict(i, class_id)]
        if not wrong:
            differing = [i for i, class_id in enumerate(order) if pairs.differ(i, class_id)]
            if not numbered and _too_many(len(differing), len(names)):
                raise _other_classes(pairs, ids, annotation, differing)
            if differing:
                logger.warning(_renamed(pairs, annotation, differing[0], order, len(differing)))
            return listed.select(order)
        if in_order:
            raise _other_classes(pairs, ids, annotation, wrong)
        if numbered:
            first = wrong[0]
            raise UserError(
                f"{annotation} names category {ids[first]} {shown(names[first])}, but "
                f"{listed.source} has {ids[first]}:{listed.labels[order[first]]}; correct the "
                "numbers of the list, or leave them out to join it by names"
            )
    matches = [pairs.only(i) for i in range(len(names))]
    class_ids = [class_id for class_id in matches if class_id is not None]
    if len(class_ids) == len(names) and len(set(class_ids)) == len(names):
        return listed.select(class_ids)
    raise _unmatched(pairs, ids, annotation, matches)


def _too_many(differing: int, count: int) -> bool:
    """Tell whether too many names differ to join by order; a single one may differ."""
    return differing == count or differing > max(1, OTHER_NAMES * count)


def _renamed(pairs: "_Pairs", annotation: str, i: int, order: Sequence[int], count: int) -> str:
    return (
        f"{count} of {len(order)} class names of {pairs.listed.source} differ from those of "
        f"{annotation}; these classes are joined by position, for example "
        f"{shown(pairs.names[i])} is queried as {shown(pairs.listed.labels[order[i]])}"
    )


def join_by_order(
    listed: Vocabulary, names: Sequence[str], ids: Sequence[int], annotation: str
) -> Vocabulary:
    """Do the same as `join` without comparing names, for annotations in another language."""
    if listed.ids is not None and set(listed.ids) == set(ids):
        return listed.select(_numeric_order(listed, ids))
    if len(listed) != len(names):
        raise _other_count(listed, names, annotation)
    return listed


def _other_count(listed: Vocabulary, names: Sequence[str], annotation: str) -> UserError:
    return UserError(
        f"{annotation}: its annotations have {len(names)} classes, but the vocabulary has "
        f"{len(listed)} ({listed.source}); give a list of the same classes"
    )


def _numeric_order(listed: Vocabulary, ids: Sequence[int]) -> list[int]:
    assert listed.ids is not None, "only called for a list with numbers"
    class_of = {number: class_id for class_id, number in enumerate(listed.ids)}
    return [class_of[number] for number in ids]


@dataclass(frozen=True)
class _Pairs:
    """Compares the names of a list's classes with those of an annotation's categories.

    The index of a category is called i, and that of a class class_id; both begin at 0.
    """

    listed: Vocabulary
    names: Sequence[str]

    @cached_property
    def _labels(self) -> dict[str, set[int]]:
        return _classes_by_name([[label] for label in self.listed.labels])

    @cached_property
    def _synonyms(self) -> dict[str, set[int]]:
        return _classes_by_name(self.listed.names)

    def only(self, i: int) -> int | None:
        """Return the only class with the name of category i; None if there is no class or several.

        The first names of the classes are compared first, and then all synonyms.
        """
        for by_name in (self._labels, self._synonyms):
            class_ids = self._named(i, by_name)
            if len(class_ids) == 1:
                return next(iter(class_ids))
        return None

    def contradict(self, i: int, class_id: int) -> bool:
        """Tell whether other classes have the name of category i, but this class does not."""
        class_ids = self._named(i, self._synonyms)
        return bool(class_ids) and class_id not in class_ids

    def differ(self, i: int, class_id: int) -> bool:
        """Tell whether the names of category i and of this class have no word in common."""
        return _words(self.names[i]).isdisjoint(_words(*self.listed.names[class_id]))

    def _named(self, i: int, by_name: dict[str, set[int]]) -> set[int]:
        """Return the classes with the entire name of category i, or else with one of its synonyms.

        Commas separate synonyms, as in ADE20K.
        """
        name = self.names[i]
        class_ids = by_name.get(spelling(name), set())
        if class_ids or "," not in name:
            return class_ids
        return set().union(*(by_name.get(spelling(part), set()) for part in name.split(",")))


def _classes_by_name(groups: Sequence[Sequence[str]]) -> dict[str, set[int]]:
    by_name: dict[str, set[int]] = {}
    for class_id, group in enumerate(groups):
        for name in group:
            by_name.setdefault(spelling(name), set()).add(class_id)
    return by_name


def _words(*names: str) -> set[str]:
    return {word for name in names for word in re.findall(r"\w+", spelling(name))}


def _other_classes(
    pairs: _Pairs, ids: Sequence[int], annotation: str, differing: Sequence[int]
) -> UserError:
    first = differing[0]
    return UserError(
        f"{len(differing)} of {len(ids)} class names in {annotation} differ from those of "
        f"{pairs.listed.source}; the first is {shown(pairs.names[first])} in place of "
        f"{shown(pairs.listed.labels[first])}; give a list of the same classes, or number its "
        f"lines as the annotation does ({ids[first]}:{pairs.listed.labels[first]})"
    )


def _unmatched(
    pairs: _Pairs, ids: Sequence[int], annotation: str, matches: Sequence[int | None]
) -> UserError:
    listed, names = pairs.listed, pairs.names
    if None in matches:
        first = matches.index(None)
        problem = (
            f"category {ids[first]}, {shown(names[first])}, has no class of its own in the list"
        )
    else:
        first = next(i for i, class_id in enumerate(matches) if class_id in matches[:i])
        other = matches.index(matches[first])
        problem = (
            f"{shown(names[other])} and {shown(names[first])} are one class in the list, "
            f"{shown(listed.labels[matches[first] or 0])}"
        )
    return UserError(
        f"{annotation}: its annotations have {len(names)} classes, but the vocabulary has "
        f"{len(listed)} ({listed.source}); {problem}; give a list of the same classes in the order "
        "of their ids, or with the annotation's names among the synonyms"
    )
