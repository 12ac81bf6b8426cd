"""Summarise a result in a few words: "2 dogs, 1 sky; 31 ms"."""

from collections import Counter
from collections.abc import Iterable

MOST_NAMED = 8  # at most this many classes are named; the others are only counted


def summary(names: Iterable[str], seconds: float | None) -> str:
    """Return how often each name occurs, the most frequent first, and the time."""
    counts = Counter(names).most_common()
    parts = [
        f"{count} {plural(name) if count > 1 else name}" for name, count in counts[:MOST_NAMED]
    ]
    if len(counts) > MOST_NAMED:
        parts.append(f"{len(counts) - MOST_NAMED} more classes")
    found = ", ".join(parts) or "none of the classes"
    return found if seconds is None else f"{found}; {1000 * seconds:.0f} ms"


def plural(name: str) -> str:
    """Return the English plural of a name in the regular cases, and other names unchanged."""
    if not name.isascii() or not name[-1:].isalpha():
        return name
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2:-1] not in tuple("aeiou"):
        return f"{name[:-1]}ies"
    return f"{name}s"
