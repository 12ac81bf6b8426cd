"""Write captions of scenes for CLIP; they use all words of the world, seen and unseen.

Some combinations of noun, colour and pattern are never written in full (`is_held_out`): they test
whether CLIP can combine words that it has only met separately.
"""

from collections import Counter

import numpy as np

from frozenseg.small_world.coats import COLOURS, PATTERNS
from frozenseg.small_world.grounds import GROUNDS
from frozenseg.small_world.nouns import NOUNS
from frozenseg.small_world.scene import Region, Scene
from frozenseg.text.vocabulary import Vocabulary

PATTERN_WORDS: dict[str, tuple[str, ...]] = {  # `attribute_vocabulary` uses the first
    "plain": ("plain",),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered", "checked"),
}
MOST_NAMED = 3  # things in one caption, because the small text tower reads only 24 tokens
HELD_OUT_EVERY = 7
NO_ARTICLE = frozenset(
    "grass sand water snow gravel pebbles earth soil bricks wood planks tiles rock".split()
)
UNIQUE = frozenset(("sky", "sea"))
PLURALS = {"leaf": "leaves", "fish": "fish"}
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
FRAMES = ("{}", "a photo of {}", "a photo of {}.", "a picture of {}")
LONG_FRAMES = ("this is a photo of {}", "there is {} in the scene")
# The shares of phrases with pattern and colour, with colour only, and with pattern only.
SOME, RICH = (0.25, 0.17, 0.08), (0.35, 0.2, 0.15)
FEW_WORDS = 6  # a phrase of at most this many words leaves room for a long frame or for the grounds


def is_held_out(noun: str, colour: str, pattern: str) -> bool:
    """Whether no caption uses these three words together for one thing (one combination in seven).

    Every noun, colour and pattern, and every pair of them, still occurs in other combinations.
    """
    row = list(NOUNS).index(noun) + 2 * list(COLOURS).index(colour)
    return (row + 4 * list(PATTERNS).index(pattern)) % HELD_OUT_EVERY == 0


def caption(scene: Scene, generator: np.random.Generator) -> str:
    """Write a caption of a scene; the wording varies from call to call.

    The caption names a few of the things, half of the time only by their nouns, otherwise with
    colour, pattern or both. Sometimes it counts them, and often it names the grounds.
    """
    things = _things_phrase(scene.things, generator)
    grounds = _grounds_phrase(scene.grounds, generator)
    if not things:
        return _say(grounds, generator)
    roll = generator.random()
    if roll < 0.65 or len(things.split()) > FEW_WORDS:
        return _say(things, generator)
    if roll < 0.75:
        return f"{grounds} with {things}"
    joint = "on" if len(scene.grounds) == 1 else "in front of"
    return _say(f"{things} {joint} {grounds}", generator)


def region_caption(region: Region, generator: np.random.Generator) -> str:
    """Write a caption of a ground or a thing, for things mostly with colour, pattern or both."""
    if region.is_thing:
        return _say(_thing_phrase(region, generator, brief=False, shares=RICH), generator)
    return _say(_grounds_phrase([region], generator), generator)


def label(scene: Scene) -> str:
    """Write a short caption of a scene, always the same: "a photo of a star".

    It names the first thing or, if the scene has no things, the first ground.
    """
    region = (scene.things or scene.grounds)[0]
    return f"a photo of {with_article(region.name) if region.is_thing else region.name}"


def attribute_vocabulary(*, held_out: bool | None = None) -> Vocabulary:
    """Return a vocabulary of things with colour and pattern ("striped red star").

    held_out: True for only the combinations that captions never use, False for only those that they
    may use, None for all.
    """
    names = [
        (f"{PATTERN_WORDS[pattern][0]} {colour} {noun}",)
        for noun in NOUNS
        for colour in COLOURS
        for pattern in PATTERNS
        if held_out is None or is_held_out(noun, colour, pattern) == held_out
    ]
    return Vocabulary(tuple(names), (True,) * len(names))


def plural(word: str) -> str:
    """Return the plural of a name: "boxes", "leaves", "plus signs"."""
    if word in PLURALS:
        return PLURALS[word]
    if word.endswith(("s", "x", "sh", "ch")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def with_article(phrase: str) -> str:
    """Return "a star", "an apple", "the sky", and "grass" as it is."""
    if phrase in NO_ARTICLE:
        return phrase
    if phrase in UNIQUE:
        return f"the {phrase}"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _say(phrase: str, generator: np.random.Generator) -> str:
    few = len(phrase.split()) <= FEW_WORDS
    return str(generator.choice(FRAMES + LONG_FRAMES * few)).format(phrase)


def _things_phrase(things: list[Region], generator: np.random.Generator) -> str:
    """Return a phrase that names some of the things in random order, or "" if there are none.

    Example: "a red star, two cups and a fish".
    """
    if not things:
        return ""
    counts = Counter(thing.name for thing in things)
    chosen = [things[i] for i in generator.permutation(len(things))]
    most = int(generator.integers(1, MOST_NAMED + 1))
    phrases: list[str] = []
    counted: set[str] = set()
    alone: set[str] = set()  # "a red star and two stars" would be three
    for thing in chosen:
        if len(phrases) == most:
            break
        if thing.name in counted:
            continue
        if counts[thing.name] > 1 and thing.name not in alone and generator.random() < 0.6:
            counted.add(thing.name)
            word = str(generator.choice(NOUNS[thing.name].names))
            phrases.append(f"{NUMBERS[counts[thing.name]]} {plural(word)}")
        else:
            alone.add(thing.name)
            phrases.append(_thing_phrase(thing, generator, brief=most == MOST_NAMED))
    return _listed(phrases)


def _thing_phrase(
    thing: Region,
    generator: np.random.Generator,
    *,
    brief: bool,
    shares: tuple[float, float, float] = SOME,
) -> str:
    """Return a phrase such as "a striped red star", with all, some or none of the attributes.

    brief: whether the phrase has at most one attribute.
    """
    noun = str(generator.choice(NOUNS[thing.name].names))
    pattern = str(generator.choice(PATTERN_WORDS[thing.pattern]))
    roll = generator.random()
    both, colour, either = np.cumsum(shares)
    if roll < both and not brief and not is_held_out(thing.name, thing.colour, thing.pattern):
        words = [pattern, thing.colour] if generator.random() < 0.6 else [thing.colour, pattern]
    elif roll < colour:
        words = [thing.colour]
    elif roll < either:
        words = [pattern]
    else:
        words = []
    return with_article(" ".join([*words, noun]))


def _grounds_phrase(grounds: list[Region], generator: np.random.Generator) -> str:
    words = [str(generator.choice(GROUNDS[ground.name].names)) for ground in grounds]
    phrases = [with_article(word) for word in words]
    return _listed([phrases[i] for i in generator.permutation(len(phrases))])


def _listed(phrases: list[str]) -> str:
    if len(phrases) < 2:
        return "".join(phrases)
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"
