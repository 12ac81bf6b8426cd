"""A result in a few words: "2 dogs, 1 sky; 31 ms"."""

from collections import Counter
from collections.abc import Iterable

MOST_NAMED = 8  # classes that are named; of more, their number is said


def summary(names: Iterable[str], seconds: float | None) -> str:
    """Say how often each name occurs, the most frequent first, and the time."""
    counts = Counter(names).most_common()
    said = [f"{count} {plural(name) if count > 1 else name}" for name, count in counts[:MOST_NAMED]]
    if len(counts) > MOST_NAMED:
        said.append(f"{len(counts) - MOST_NAMED} more classes")
    found = ", ".join(said) or "none of the classes"
    return found if seconds is None else f"{found}; {1000 * seconds:.0f} ms"


def plural(name: str) -> str:
    """Return the English plural of a name in the plain cases, other names as they are."""
    if not name.isascii() or not name[-1:].isalpha():
        return name
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2:-1] not in tuple("aeiou"):
        return f"{name[:-1]}ies"
    return f"{name}s"
