"""A class list and the categories of an annotation, joined by what both say."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from frozenseg.errors import UserError
from frozenseg.text.names import shown, spelling
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

OTHER_NAMES = 0.2  # share of classes that may have other words in the annotation than in the list


def join(
    listed: Vocabulary,
    names: Sequence[str],
    ids: Sequence[int],
    annotation: str,
    *,
    in_order: bool = False,
) -> Vocabulary:
    """The classes of a list in the order of an annotation's categories.

    names, ids: of the categories. annotation: what they were read from, for messages. in_order: the
    order of the list is a fact, as of a benchmark's own, which its label maps rest on too: an
    annotation with other classes, or in another order, is refused.

    A list whose numbers are the ids is joined by them, another of the same length in its order,
    unless a name says otherwise. Then names decide, if every category has a class of its own in the
    list, which may be longer. Where numbers and names contradict each other, or names cannot place
    all categories: `UserError` with the first pair that differs.
    """
    pairs = _Pairs(listed, names)
    if in_order and len(listed) != len(names):
        raise _other_count(listed, names, annotation)
    numbered = listed.ids is not None and set(listed.ids) == set(ids)
    if numbered or len(listed) == len(names):
        order = _numeric_order(listed, ids) if numbered else list(range(len(names)))
        wrong = [i for i, place in enumerate(order) if pairs.contradict(i, place)]
        if not wrong:
            strangers = [i for i, place in enumerate(order) if pairs.strange(i, place)]
            if not numbered and _too_many(len(strangers), len(names)):
                raise _other_classes(pairs, ids, annotation, strangers)
            if strangers:
                logger.warning(_told(pairs, annotation, strangers[0], order, len(strangers)))
            return listed.select(order)
        if in_order:
            raise _other_classes(pairs, ids, annotation, wrong)
        if numbered:
            first = wrong[0]
            raise UserError(
                f"{annotation} names category {ids[first]} {shown(names[first])}, {listed.source} "
                f"has {ids[first]}:{listed.labels[order[first]]}; correct the numbers of the list, "
                "or leave them out to join it by names"
            )
    chosen = [pairs.only(i) for i in range(len(names))]
    placed = [place for place in chosen if place is not None]
    if len(placed) == len(names) and len(set(placed)) == len(names):
        return listed.select(placed)
    raise _unplaced(pairs, ids, annotation, chosen)


def _too_many(strangers: int, count: int) -> bool:
    """One class that is left over beside others that have found theirs is settled by them."""
    return strangers == count or strangers > max(1, OTHER_NAMES * count)


def _told(pairs: "_Pairs", annotation: str, i: int, order: Sequence[int], count: int) -> str:
    return (
        f"{pairs.listed.source} names {count} of {len(order)} classes in other words than "
        f"{annotation}; they are joined by their place: {shown(pairs.names[i])} is asked for as "
        f"{shown(pairs.listed.labels[order[i]])}"
    )


def join_by_order(
    listed: Vocabulary, names: Sequence[str], ids: Sequence[int], annotation: str
) -> Vocabulary:
    """As `join`, but whatever the names say: for annotations in another language."""
    if listed.ids is not None and set(listed.ids) == set(ids):
        return listed.select(_numeric_order(listed, ids))
    if len(listed) != len(names):
        raise _other_count(listed, names, annotation)
    return listed


def _other_count(listed: Vocabulary, names: Sequence[str], annotation: str) -> UserError:
    return UserError(
        f"{annotation}: its annotations have {len(names)} classes, the vocabulary "
        f"{len(listed)} ({listed.source}); give a list of the same classes"
    )


def _numeric_order(listed: Vocabulary, ids: Sequence[int]) -> list[int]:
    assert listed.ids is not None, "only asked for a list with numbers"
    places = {number: place for place, number in enumerate(listed.ids)}
    return [places[number] for number in ids]


@dataclass(frozen=True)
class _Pairs:
    """Which classes of a list have a name of a category."""

    listed: Vocabulary
    names: Sequence[str]

    @cached_property
    def _labels(self) -> dict[str, set[int]]:
        return _places([[label] for label in self.listed.labels])

    @cached_property
    def _synonyms(self) -> dict[str, set[int]]:
        return _places(self.listed.names)

    def only(self, i: int) -> int | None:
        """The one class that has the name of category i, its own rather than among synonyms."""
        for places in (self._labels, self._synonyms):
            found = self._named(i, places)
            if len(found) == 1:
                return next(iter(found))
        return None

    def contradict(self, i: int, place: int) -> bool:
        """Whether other classes of the list have the name of category i, and this one has not."""
        found = self._named(i, self._synonyms)
        return bool(found) and place not in found

    def strange(self, i: int, place: int) -> bool:
        """Whether category i and a class share no word."""
        return _words(self.names[i]).isdisjoint(_words(*self.listed.names[place]))

    def _named(self, i: int, places: dict[str, set[int]]) -> set[int]:
        """By the whole name, else by the synonyms that stand in it between commas, as in ADE20K."""
        name = self.names[i]
        found = places.get(spelling(name), set())
        if found or "," not in name:
            return found
        return set().union(*(places.get(spelling(part), set()) for part in name.split(",")))


def _places(groups: Sequence[Sequence[str]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for place, group in enumerate(groups):
        for name in group:
            found.setdefault(spelling(name), set()).add(place)
    return found


def _words(*names: str) -> set[str]:
    return {word for name in names for word in re.findall(r"\w+", spelling(name))}


def _other_classes(
    pairs: _Pairs, ids: Sequence[int], annotation: str, strangers: Sequence[int]
) -> UserError:
    first = strangers[0]
    return UserError(
        f"{annotation} names {len(strangers)} of {len(ids)} classes otherwise than "
        f"{pairs.listed.source}, {shown(pairs.names[first])} for "
        f"{shown(pairs.listed.labels[first])} first: give a list of the same classes, or number "
        f"its lines as the annotation does ({ids[first]}:{pairs.listed.labels[first]})"
    )


def _unplaced(
    pairs: _Pairs, ids: Sequence[int], annotation: str, chosen: Sequence[int | None]
) -> UserError:
    listed, names = pairs.listed, pairs.names
    if None in chosen:
        first = chosen.index(None)
        problem = f"category {ids[first]}, {shown(names[first])}, has no class of its own there"
    else:
        first = next(i for i, place in enumerate(chosen) if place in chosen[:i])
        other = chosen.index(chosen[first])
        problem = (
            f"{shown(names[other])} and {shown(names[first])} are one class there, "
            f"{shown(listed.labels[chosen[first] or 0])}"
        )
    return UserError(
        f"{annotation}: its annotations have {len(names)} classes, the vocabulary {len(listed)} "
        f"({listed.source}); {problem}: give a list of the same classes in the order of their ids, "
        "or with the annotation's names among the synonyms"
    )
