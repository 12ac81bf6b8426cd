"""Class names: which texts are valid names, and which names count as the same.

A name is shown and encoded as it is written. Two names are the same if they have the same
`spelling`, which ignores case, Unicode's different forms of a character, invisible characters, and
the choice between space, underscore and hyphen. This single rule finds repeated classes, separates
things from stuff and seen from unseen classes, and joins lists with annotations. In benchmarks, a
plural is a different name: the field's lists contain plurals as synonyms where they are meant, and
the published counts of seen classes depend on this. In a user's vocabulary, a plural is the same
name (see `singular`).
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from frozenseg.errors import UserValueError

# In characters. A shorter name may still have more tokens than the text encoder accepts.
MAX_NAME_LENGTH = 200
# Zero-width joiners are invisible, but have a meaning in Persian and Indic words and in emoji.
JOINERS = "\u200c\u200d"
SEPARATORS = re.compile(r"[\s_\-\u2010-\u2015]+")


def clean(name: object, place: str) -> str:
    """Return a name in Unicode's composed form (NFC), without invisible characters and repeated
    spaces.

    place: where the name was read, for messages. Raises `UserError` if the name is not text, is not
    valid UTF-8, has control characters or no visible character, or is too long.
    """
    if not isinstance(name, str):
        raise UserValueError(f"{place} is {shown(name)}: names must be text")
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise UserValueError(f"{place} is {shown(name)}: not valid text; write it in UTF-8")
    text = " ".join(name.split())
    for letter in text:
        if unicodedata.category(letter) == "Cc":
            raise UserValueError(
                f"{place} is {shown(name)}: holds the control character {letter!r}"
            )
    text = "".join(c for c in text if c in JOINERS or unicodedata.category(c) != "Cf")
    text = " ".join(unicodedata.normalize("NFC", text).strip(JOINERS + " ").split())
    if not text:
        raise UserValueError(f"{place} is blank: name it or leave it out")
    if len(text) > MAX_NAME_LENGTH:
        raise UserValueError(
            f"{place}: the name {shown(text)} has {len(text)} characters, "
            f"at most {MAX_NAME_LENGTH} are allowed"
        )
    return text


def shown(value: object, length: int = 30) -> str:
    """Return a value for a message: on one line, and cut to about `length` characters."""
    if isinstance(value, str):
        return ascii_escapes(repr(value if len(value) <= length else value[:length] + "..."))
    text = ascii_escapes(repr(value))
    return text if len(text) <= 2 * length else text[: 2 * length] + "..."


def ascii_escapes(text: str) -> str:
    """Replace lone surrogates by escapes, so that the text can be printed."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@functools.lru_cache(maxsize=2**15)  # the same vocabularies are compared repeatedly
def spelling(name: str) -> str:
    """Return the normal form of a name; names with the same normal form are the same name."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return SEPARATORS.sub(" ", text).strip() or text


def singular(name: str) -> str:
    """Return the spelling of a name without the plural ending of its last word; only regular
    plurals are recognised."""
    text = spelling(name)
    for ending, stem in (
        ("ies", "y"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("sses", "ss"),
        ("xes", "x"),
    ):
        if text.endswith(ending) and len(text) > len(ending) + 1:
            return text.removesuffix(ending) + stem
    return text[:-1] if text.endswith("s") and not text.endswith("ss") and len(text) > 3 else text


def repeated(groups: Sequence[Sequence[str]]) -> list[tuple[int, int, str]]:
    """Return the names that are in more than one group.

    Each is returned as (index of the first group, index of the later group, name as in the later
    group).
    """
    owners: dict[str, int] = {}
    repetitions = []
    for number, group in enumerate(groups):
        for name in dict.fromkeys(group):
            owner = owners.setdefault(spelling(name), number)
            if owner != number:
                repetitions.append((owner, number, name))
    return repetitions


def refuse_repeated(
    groups: Sequence[Sequence[str]], places: Sequence[str], source: str, remedy: str
) -> None:
    """Raise `UserError` if a name is in two classes, which could then not be told apart.

    groups: the names of each class. places: where each class was read, for the message. source:
    where all classes come from, and remedy: what to do, both for the message.
    """
    for first, later, name in repeated(groups):
        raise UserValueError(
            f"{source} names {shown(name)} in more than one class "
            f"({places[first]} and {places[later]}): {remedy}"
        )


def distinct(names: Iterable[str]) -> list[str]:
    """Return the names, with the position added to those that occur more than once; for column
    titles."""
    names = list(names)
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def foreign(names: Iterable[str]) -> list[str]:
    """Return the names without any Latin letter or digit, which an English text encoder hardly
    knows."""
    return [name for name in names if not any(_is_latin(letter) for letter in name)]


def _is_latin(letter: str) -> bool:
    return letter.isdigit() or unicodedata.name(letter, "").startswith(("LATIN", "FULLWIDTH LATIN"))
