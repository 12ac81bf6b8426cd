"""Class names: which texts can be one, and when two of them are one name.

A name is shown and encoded as it is written. Two names are one if their `spelling` is the same: it
passes over case, the forms in which Unicode can write a character, invisible characters, and the
choice between space, underscore and hyphen. This is the one rule for repeated classes, for things
and stuff, for seen and unseen, and for joining a list with an annotation. A plural is another name:
the field's lists give plurals as synonyms where they mean them, and the published counts of seen
classes rest on that.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from frozenseg.errors import UserError

MAX_NAME_LENGTH = 200  # characters; what more tokens than the text tower reads are, it says itself
JOINERS = "\u200c\u200d"  # between letters of Persian and Indic words, and within emoji
SEPARATORS = re.compile(r"[\s_\-\u2010-\u2015]+")


def clean(name: object, place: str) -> str:
    """A name in Unicode's composed form (NFC), its spaces collapsed, invisible characters removed.

    place: where it stands, for the message. Raises `UserError` for what is no text, has no visible
    character, holds control characters or bytes that are not UTF-8, or is too long.
    """
    if not isinstance(name, str):
        raise UserError(f"{place} is {shown(name)}: names must be text")
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise UserError(f"{place} is {shown(name)}: not valid text; write it in UTF-8")
    text = " ".join(name.split())
    for letter in text:
        if unicodedata.category(letter) == "Cc":
            raise UserError(f"{place} is {shown(name)}: holds the control character {letter!r}")
    text = "".join(c for c in text if c in JOINERS or unicodedata.category(c) != "Cf")
    text = " ".join(unicodedata.normalize("NFC", text).strip(JOINERS + " ").split())
    if not text:
        raise UserError(f"{place} is blank: name it or leave it out")
    if len(text) > MAX_NAME_LENGTH:
        raise UserError(
            f"{place}: the name {shown(text)} has {len(text)} characters, "
            f"at most {MAX_NAME_LENGTH} can be read by the text encoder"
        )
    return text


def shown(value: object, length: int = 30) -> str:
    """A value in a message: one line, cut to `length` characters."""
    if isinstance(value, str):
        return ascii_escapes(repr(value if len(value) <= length else value[:length] + "..."))
    text = ascii_escapes(repr(value))
    return text if len(text) <= 2 * length else text[: 2 * length] + "..."


def ascii_escapes(text: str) -> str:
    """Lone surrogates as escapes, so that the text can be printed."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@functools.lru_cache(maxsize=2**15)  # a vocabulary is compared with another again and again
def spelling(name: str) -> str:
    """What two spellings of one name share."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return SEPARATORS.sub(" ", text).strip() or text


def singular(name: str) -> str:
    """The spelling of a name without the plural ending of its last word, in the plain cases."""
    text = spelling(name)
    for ending, stem in (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss")):
        if text.endswith(ending) and len(text) > len(ending) + 1:
            return text.removesuffix(ending) + stem
    return text[:-1] if text.endswith("s") and not text.endswith("ss") and len(text) > 3 else text


def repeated(groups: Sequence[Sequence[str]]) -> list[tuple[int, int, str]]:
    """Names that stand in two groups: (first group, later group, the name as the later has it)."""
    owners: dict[str, int] = {}
    found = []
    for number, group in enumerate(groups):
        for name in dict.fromkeys(group):
            owner = owners.setdefault(spelling(name), number)
            if owner != number:
                found.append((owner, number, name))
    return found


def refuse_repeated(
    groups: Sequence[Sequence[str]], places: Sequence[str], source: str, remedy: str
) -> None:
    """A name in two classes is a slip: the two would share all their pixels by chance.

    places: where each group stands.
    """
    for first, later, name in repeated(groups):
        raise UserError(
            f"{source} names {shown(name)} in more than one class "
            f"({places[first]} and {places[later]}): {remedy}"
        )


def distinct(names: Iterable[str]) -> list[str]:
    """The names as titles of columns: those that occur again get their number from 0 behind."""
    names = list(names)
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def foreign(names: Iterable[str]) -> list[str]:
    """Names without a Latin letter or a digit, which an English text tower hardly reads."""
    return [name for name in names if not any(_is_latin(letter) for letter in name)]


def _is_latin(letter: str) -> bool:
    return letter.isdigit() or unicodedata.name(letter, "").startswith(("LATIN", "FULLWIDTH LATIN"))
