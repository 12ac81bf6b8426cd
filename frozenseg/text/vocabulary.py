"""The classes to look for: names with synonyms, and which of them are countable things."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from frozenseg.errors import UserError, nearest

MAX_NAME_LENGTH = 200  # characters; CLIP reads 77 tokens and would silently drop the rest

Source = str | os.PathLike[str] | Iterable[str | Sequence[str]]


@dataclass(frozen=True)
class Vocabulary:
    """K classes. names: synonyms of each, the first is shown; is_thing: countable or not."""

    names: tuple[tuple[str, ...], ...]
    is_thing: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise UserError("the vocabulary is empty: give at least one class name")
        if len(self.names) != len(self.is_thing):
            raise ValueError(f"{len(self.names)} classes but {len(self.is_thing)} thing flags")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> list[str]:
        """The first name of each class."""
        return [names[0] for names in self.names]

    @cached_property
    def all_names(self) -> frozenset[str]:
        """Every synonym of every class."""
        return frozenset(name for names in self.names for name in names)

    @property
    def flat_names(self) -> list[str]:
        """All S synonyms, class by class."""
        return [name for names in self.names for name in names]

    @property
    def class_index(self) -> list[int]:
        """The class of each of `flat_names`."""
        return [index for index, names in enumerate(self.names) for _ in names]

    def select(self, class_ids: Iterable[int]) -> "Vocabulary":
        """These classes alone, in this order."""
        ids = list(class_ids)
        return Vocabulary(tuple(self.names[i] for i in ids), tuple(self.is_thing[i] for i in ids))

    def seen(self, training: "Vocabulary") -> list[bool]:
        """Whether a class shares a name, to the letter, with the training vocabulary (FC-CLIP)."""
        return [not training.all_names.isdisjoint(names) for names in self.names]

    @classmethod
    def parse(cls, source: "Source | Vocabulary", things: Source | None = None) -> "Vocabulary":
        """A vocabulary from what a user writes.

        source: "car, truck; road" (classes by `;`, synonyms by `,`), a list of such classes or of
        lists of synonyms, or a file (`from_file`).
        things: the classes that are things, by any of their names, in the same forms. Without it a
        class is a thing unless its name is a stuff class of COCO (`is_known_stuff`).
        """
        if isinstance(source, Vocabulary):
            return source if things is None else cls(source.names, _flags(source.names, things))
        if isinstance(source, os.PathLike) or (isinstance(source, str) and _is_file(source)):
            vocabulary = cls.from_file(source)
            return cls.parse(vocabulary, things)
        names = tuple(_split(source))
        _refuse_duplicates(names)
        flags = (
            tuple(not is_known_stuff(group) for group in names)
            if things is None
            else _flags(names, things)
        )
        return cls(names, flags)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Read a list with one class a line: `name, synonym` or, as the field's lists,
        `id:name,...`.

        Classes after a line `[stuff]` are stuff, after `[things]` things; without such lines COCO's
        stuff names decide. `#` starts a comment; the class `invalid_class_id` is left out.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"vocabulary {path}: cannot be read ({error})") from None
        names: list[tuple[str, ...]] = []
        flags: list[bool] = []
        section: bool | None = None
        for line in lines:
            line = line.split("#")[0].strip()
            if line in ("[things]", "[stuff]"):
                section = line == "[things]"
            elif line:
                group = _synonyms(re.sub(r"^\d+\s*:", "", line), len(names) + 1)
                if group != ("invalid_class_id",):
                    names.append(group)
                    flags.append(not is_known_stuff(group) if section is None else section)
        if not names:
            raise UserError(f"vocabulary {path}: holds no class")
        return cls(tuple(names), tuple(flags))

    @classmethod
    def packaged(cls, name: str) -> "Vocabulary":
        """A vocabulary that ships with the package, e.g. "coco_panoptic"."""
        folder = resources.files("frozenseg.data") / "vocabularies"
        known = sorted(entry.name[:-4] for entry in folder.iterdir() if entry.name.endswith(".txt"))
        if name not in known:
            raise UserError(f"vocabulary {name}: not in the package; {nearest(name, known)}")
        with resources.as_file(folder / f"{name}.txt") as path:
            return cls.from_file(path)


def is_known_stuff(names: Sequence[str]) -> bool:
    """Whether one of the names is a stuff class of COCO panoptic, e.g. "sky"."""
    return not _coco_stuff().isdisjoint(names)


def _coco_stuff() -> frozenset[str]:
    if not _COCO_STUFF:
        coco = Vocabulary.packaged("coco_panoptic")
        for names, is_thing in zip(coco.names, coco.is_thing, strict=True):
            if not is_thing:
                _COCO_STUFF.update(names)
    return frozenset(_COCO_STUFF)


_COCO_STUFF: set[str] = set()  # filled at first use, not on import


def _is_file(text: str) -> bool:
    return text.endswith(".txt")  # a folder may well hold a file called "dog"


def _split(source: Source) -> Iterable[tuple[str, ...]]:
    """Tuples of synonyms; a blank class is an error, a `;` at the end is not."""
    if isinstance(source, str):
        groups: list[str | Sequence[str]] = list(source.split(";"))
        if len(groups) > 1 and not str(groups[-1]).strip():
            groups.pop()
    else:
        groups = list(source)  # type: ignore[arg-type]
    if all(isinstance(group, str) and not group.strip() for group in groups):
        raise UserError("the vocabulary is empty: give at least one class name")
    for number, group in enumerate(groups, 1):
        if not isinstance(group, str) and not all(isinstance(name, str) for name in group):
            raise UserError(f"class {number} of the vocabulary is {group!r}: names must be text")
        yield _synonyms(group if isinstance(group, str) else ",".join(group), number)


def _synonyms(group: str, number: int) -> tuple[str, ...]:
    names = tuple(" ".join(name.split()) for name in group.split(","))
    names = tuple(name for name in names if name)
    if not names:
        raise UserError(f"class {number} of the vocabulary is blank: name it or leave it out")
    for name in names:
        if len(name) > MAX_NAME_LENGTH:
            raise UserError(
                f"class {number} of the vocabulary: the name {name[:30] + '...'!r} has {len(name)} "
                f"characters, at most {MAX_NAME_LENGTH} can be read by the text encoder"
            )
    return names


def _refuse_duplicates(names: Sequence[tuple[str, ...]]) -> None:
    """A name in two classes is a slip: the two would share all their pixels by chance."""
    counts = Counter(name for group in names for name in set(group))
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise UserError(
            f"the vocabulary names {', '.join(map(repr, repeated[:3]))} in more than one class: "
            "put synonyms in one class, separated by commas"
        )


def _flags(names: Sequence[tuple[str, ...]], things: Source) -> tuple[bool, ...]:
    if isinstance(things, str) and not things.strip():
        return tuple(False for _ in names)  # said expressly: no class is a thing
    wanted = {name for group in _split(things) for name in group}
    known = {name for group in names for name in group}
    if unknown := sorted(wanted - known):
        raise UserError(
            f"things: {unknown[0]!r} is not in the vocabulary; {nearest(unknown[0], sorted(known))}"
        )
    return tuple(not wanted.isdisjoint(group) for group in names)
