"""The classes of the world in the order of the tables: `NOUNS`, then `GROUNDS`."""

from collections.abc import Collection

from frozenseg.small_world.grounds import GROUNDS
from frozenseg.small_world.nouns import NOUNS
from frozenseg.text.vocabulary import Vocabulary


def world_vocabulary(*, seen_only: bool = False, but: Collection[str] = ()) -> Vocabulary:
    """Return all classes with synonyms, or only those that are annotated in the training masks.

    but: first names of classes to leave out.
    """
    tables = (NOUNS, GROUNDS)
    things, stuff = (
        [
            row.names
            for name, row in table.items()
            if (row.seen or not seen_only) and name not in but
        ]
        for table in tables
    )
    return Vocabulary(tuple(things + stuff), (True,) * len(things) + (False,) * len(stuff))
