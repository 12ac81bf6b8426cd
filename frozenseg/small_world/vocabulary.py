"""The classes of the world in the order of the tables: `NOUNS`, then `GROUNDS`."""

from frozenseg.small_world.grounds import GROUNDS
from frozenseg.small_world.nouns import NOUNS
from frozenseg.text.vocabulary import Vocabulary


def world_vocabulary(*, seen_only: bool = False) -> Vocabulary:
    """Return all classes with synonyms, or those that are annotated in the training masks."""
    things = [noun.names for noun in NOUNS.values() if noun.seen or not seen_only]
    stuff = [ground.names for ground in GROUNDS.values() if ground.seen or not seen_only]
    return Vocabulary(tuple(things + stuff), (True,) * len(things) + (False,) * len(stuff))
