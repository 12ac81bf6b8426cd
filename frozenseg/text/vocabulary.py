"""The vocabulary: classes with synonyms, and which of them are things (countable) or stuff."""

import functools
import io
import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path

from frozenseg.errors import UserError, UserValueError, nearest
from frozenseg.notes import note
from frozenseg.text.list_files import rows_of_content, rows_of_file
from frozenseg.text.names import (
    clean,
    refuse_repeated,
    repeated,
    shown,
    singular,
    spelling,
)
from frozenseg.text.parsing import Row, rows_of

SHOWN_NAMES = 5  # the number of names of a vocabulary that a log line shows
# Separators of classes in other programs. Here they are part of a name, so that a list which uses
# them becomes a single class.
OTHER_SEPARATORS = ("|", ";", "\uff1b", "\uff0c", "\u3001")
PACKAGED = "the list "  # begins the `source` of the package's own lists
REPEATED_REMEDY = "put synonyms in one class, separated by commas"

Source = str | os.PathLike[str] | Mapping[int, str] | Iterable[str | Sequence[str]]


@dataclass(frozen=True)
class Vocabulary:
    """K classes with their synonyms. Comparison ignores `source` and `ids`.

    names: the synonyms of each class; results show the first one.
    is_thing: whether each class is a thing (countable) rather than stuff.
    source: where the names come from, for messages.
    ids: the numbers of the classes in the source, ascending; None if it has no numbers.

    Example:
        >>> words = frozenseg.Vocabulary.parse("car, truck; sky", things="car, truck")
        >>> words.names, words.is_thing
        ((('car', 'truck'), ('sky',)), (True, False))
    """

    names: tuple[tuple[str, ...], ...]
    is_thing: tuple[bool, ...]
    source: str = field(default="the vocabulary", compare=False)
    ids: tuple[int, ...] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.names:
            raise UserValueError(f"{self.source} is empty: give at least one class name")
        if len(self.names) != len(self.is_thing):
            raise ValueError(f"{len(self.names)} classes but {len(self.is_thing)} thing flags")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> list[str]:
        """The first name of each class."""
        return [names[0] for names in self.names]

    @cached_property
    def spellings(self) -> frozenset[str]:
        """The spellings of all synonyms of all classes (see `names.spelling`)."""
        return frozenset(spelling(name) for name in self.flat_names)

    @cached_property
    def singulars(self) -> frozenset[str]:
        """The spellings of all synonyms without plural endings (see `names.singular`)."""
        return frozenset(singular(name) for name in self.flat_names)

    @property
    def flat_names(self) -> list[str]:
        """All S synonyms, ordered by class."""
        return [name for names in self.names for name in names]

    @property
    def class_index(self) -> list[int]:
        """The index of the class of each name in `flat_names`."""
        return [index for index, names in enumerate(self.names) for _ in names]

    def select(self, class_ids: Iterable[int]) -> "Vocabulary":
        """Return the vocabulary with only these classes, in this order."""
        order = list(class_ids)
        return replace(
            self,
            names=tuple(self.names[i] for i in order),
            is_thing=tuple(self.is_thing[i] for i in order),
            ids=None if self.ids is None else tuple(self.ids[i] for i in order),
        )

    def seen(self, training: "Vocabulary", *, plurals: bool = False) -> list[bool]:
        """Tell for each class whether it shares a name with the training vocabulary, as in FC-CLIP.

        Names are compared by `names.spelling`; for the field's lists, this agrees with FC-CLIP's
        comparison of the names themselves.

        plurals: whether a plural counts as the same name. For benchmarks it must not, because the
            published counts of seen classes depend on the plurals that the field's lists contain as
            synonyms.
        """
        known = training.singulars if plurals else training.spellings
        key = singular if plurals else spelling
        return [any(key(name) in known for name in group) for group in self.names]

    def summary(self, training: "Vocabulary | None" = None, *, plurals: bool = False) -> str:
        """Return a log line: the number of classes, their source, some names, and how many are
        seen."""
        first = ", ".join(label[:40] for label in self.labels[:SHOWN_NAMES])
        more = ", ..." if len(self) > SHOWN_NAMES else ""
        seen = ""
        if training is not None:
            seen = f"; {sum(self.seen(training, plurals=plurals))} seen"
        return f"classes: {len(self)}, from {self.source}: {first}{more}{seen}"

    def text(self) -> str:
        """Return the content of a file that `from_file` reads as this vocabulary.

        Raises `UserError` for names that would be read differently.
        """
        lines: list[str] = []
        before: bool | None = None
        for names, is_thing in zip(self.names, self.is_thing, strict=True):
            if is_thing != before:
                lines += ["[things]" if is_thing else "[stuff]"]
            # Names that begin with a number are quoted, so that they do not look like a table.
            first = (
                '"{}"'.format(names[0].replace('"', '""')) if names[0][0].isdigit() else names[0]
            )
            lines, before = [*lines, ", ".join([first, *names[1:]])], is_thing
        text = "\n".join(lines) + "\n"
        try:
            again = {row.names for row in rows_of_content(text, ".txt", self.source)}
        except UserError:  # e.g. the first class looks like the heading of a table
            again = set()
        if odd := [names[0] for names in self.names if names not in again]:
            raise UserValueError(
                f"{self.source}: {shown(odd[0])} cannot be written in a file of lines"
            )
        return text

    @classmethod
    def parse(cls, source: "Source | Vocabulary", things: Source | None = None) -> "Vocabulary":
        """Read a vocabulary in any form that a user may write.

        source: "car, truck; road" (`;` separates classes, `,` synonyms); a list of such classes or
            of lists of synonyms; {number: class}; or a file as a `pathlib.Path` (see `from_file`).
            A string is never taken as the name of a file.
        things: the classes that are things, by any of their names, in the same forms. None: a class
            is a thing unless COCO has a stuff class of the same name (`is_known_stuff`).

        Raises `UserError` for names that are blank, repeated or not text.
        """
        if isinstance(source, Vocabulary):
            vocabulary = source
        elif isinstance(source, os.PathLike):
            vocabulary = cls.from_file(source)
        else:
            vocabulary = cls._of_rows(rows_of(source), "the vocabulary")
            _warn_of_merged_classes(vocabulary, "separate classes by ;", source)
        if things is None:
            return vocabulary
        return replace(vocabulary, is_thing=_flags(vocabulary.names, things))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, may_repeat: bool = False) -> "Vocabulary":
        """Read a file with one class in each line, JSON, or a table (see `list_files`).

        A line is `name, synonym` or, as in the field's lists, `id:name,synonym`; classes with ids
        are ordered by them. Classes after a line `[stuff]` are stuff, and classes after `[things]`
        are things; without such lines, COCO's names of stuff decide. ` #` starts a comment. The
        class `invalid_class_id` is left out.

        may_repeat: whether a name may be in several classes, as in some of the field's lists; a
            warning then names one. In a list of lines with ids, names may always repeat.
        """
        rows = rows_of_file(path)
        vocabulary = cls._of_rows(rows, os.fspath(path), may_repeat or rows[0].is_numbered_line)
        remedy = "in a file each class has its own line, with synonyms between commas"
        _warn_of_merged_classes(vocabulary, remedy, Path(path))
        return vocabulary

    @classmethod
    def packaged(cls, name: str) -> "Vocabulary":
        """Return a vocabulary of the package, e.g. "coco_panoptic"; raises `UserError` if
        unknown."""
        folder = resources.files("frozenseg.data") / "vocabularies"
        known = sorted(entry.name[:-4] for entry in folder.iterdir() if entry.name.endswith(".txt"))
        if name not in known:
            raise UserValueError(f"vocabulary {name}: not in the package; {nearest(name, known)}")
        with resources.as_file(folder / f"{name}.txt") as path:
            return replace(cls.from_file(path), source=f"{PACKAGED}{name}")

    @classmethod
    def of_categories(
        cls,
        names: Sequence[str],
        is_thing: Sequence[bool],
        ids: Sequence[int],
        source: str,
        *,
        synonyms: bool = False,
    ) -> "Vocabulary":
        """Return the vocabulary of an annotation's categories.

        names, is_thing, ids: of each category. source: the annotation, for messages.
        synonyms: whether commas separate synonyms, as in detectron2's metadata of the field's data
            sets; otherwise a comma is part of a name.
        """
        groups: list[tuple[str, ...]] = []
        for name, number in zip(names, ids, strict=True):
            place = f"{source}: the name of category {number}"
            split = name.split(",") if synonyms and isinstance(name, str) else []
            parts = [part for part in split if part.strip()] or [name]
            groups.append(tuple(clean(part, place) for part in parts))
        if not synonyms and (commas := [name for (name,) in groups if "," in name]):
            note(
                f"{source}: {len(commas)} names have commas and are read as one name each, e.g. "
                f"{shown(commas[0])}; give a class list of your own to have synonyms"
            )
        return cls(tuple(groups), tuple(is_thing), source, tuple(ids))

    @classmethod
    def _of_rows(cls, rows: Sequence[Row], source: str, may_repeat: bool = False) -> "Vocabulary":
        names = tuple(row.names for row in rows)
        if not may_repeat:
            refuse_repeated(names, [row.place for row in rows], source, REPEATED_REMEDY)
        elif again := repeated(names):
            note(
                f"{source}: {len(again)} names are in more than one class, "
                f"e.g. {shown(again[0][2])}; results use the first of these classes"
            )
        is_thing = (
            not is_known_stuff(row.names) if row.is_thing is None else row.is_thing for row in rows
        )
        numbers = tuple(row.number for row in rows if row.number is not None)
        return cls(names, tuple(is_thing), source, numbers or None)


def is_known_stuff(names: Sequence[str]) -> bool:
    """Tell whether one of the names is a stuff class of COCO panoptic, e.g. "sky" or "Skies"."""
    return any(singular(name) in _coco_stuff() for name in names)


@functools.cache
def _coco_stuff() -> frozenset[str]:
    coco = Vocabulary.packaged("coco_panoptic")
    pairs = zip(coco.names, coco.is_thing, strict=True)
    return frozenset(singular(name) for names, is_thing in pairs if not is_thing for name in names)


def _warn_of_merged_classes(vocabulary: Vocabulary, remedy: str, source: object) -> None:
    """Warn if several classes have probably become one because of a wrong separator."""
    names, alone = vocabulary.flat_names, len(vocabulary) == 1
    signs = (*OTHER_SEPARATORS, ". ") if alone else OTHER_SEPARATORS
    odd = [name for name in names if any(sign in name for sign in signs)]
    written = isinstance(source, str | os.PathLike)
    if alone and written and len(names) > 1:
        note(
            f"1 class with {len(names)} names: {' = '.join(names[:6])}"
            f"{' = ...' if len(names) > 6 else ''}; {remedy}"
        )
    elif alone and isinstance(source, str) and "\n" in source.strip():
        note(f"1 class: {shown(names[0], 60)}; {remedy}, not by lines")
    elif odd:
        note(f"{shown(odd[0], 60)} is read as one name; {remedy}")


def _flags(names: Sequence[tuple[str, ...]], things: Source) -> tuple[bool, ...]:
    if isinstance(things, Iterable) and not isinstance(things, Sized | io.IOBase):
        things = list(things)  # a generator; whether it is empty is only known now
    given = things.strip() if isinstance(things, str) else things
    # An array without dimensions has no length; `rows_of` refuses it.
    if isinstance(given, Sized) and getattr(given, "ndim", 1) != 0 and len(given) == 0:
        return tuple(False for _ in names)  # an empty list of things: no class is one
    rows = rows_of_file(things) if isinstance(things, os.PathLike) else rows_of(things, "things")
    things_by_spelling = {spelling(name): name for row in rows for name in row.names}
    known = {spelling(name): name for group in names for name in group}
    if unknown := [name for key, name in things_by_spelling.items() if key not in known]:
        raise UserValueError(
            f"things: {shown(unknown[0])} is not in the vocabulary; "
            f"{nearest(unknown[0], sorted(known.values()))}"
        )
    return tuple(any(spelling(name) in things_by_spelling for name in group) for group in names)
