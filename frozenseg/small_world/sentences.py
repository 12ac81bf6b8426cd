"""Sentences about the small world, for a text encoder that never sees a picture.

A large text encoder has read what things look like and what they are good for. Therefore a third
of the sentences state such facts, about seen and unseen names alike. A third are captions, and a
third put a name into one of the templates that class names are put into later.
"""

import numpy as np

from frozenseg.small_world.captions import caption, plural, with_article
from frozenseg.small_world.coats import COLOURS, PATTERNS
from frozenseg.small_world.grounds import GROUNDS
from frozenseg.small_world.nouns import NOUNS
from frozenseg.small_world.scene import Region, Scene
from frozenseg.text.templates import PLACE, find_templates

TRAITS: dict[str, tuple[str, ...]] = {
    "is round": ("circle", "ring", "apple", "flower"),
    "is curved": ("circle", "ring", "heart", "moon", "bell", "umbrella", "apple"),
    "has straight edges": ("star", "square", "triangle", "cross", "arrow", "diamond", "house"),
    "has sharp corners": ("star", "square", "triangle", "arrow", "diamond", "boat"),
    "comes to a point": ("star", "triangle", "heart", "moon", "arrow", "leaf", "diamond"),
    "has a hole": ("ring", "key", "cup"),
    "has four arms": ("cross",),
    "has four sides": ("square", "diamond", "cup"),
    "has five points": ("star",),
    "has two halves": ("heart", "butterfly", "apple", "leaf"),
    "has a stem": ("flower", "tree", "mushroom", "leaf", "apple"),
    "has a handle": ("cup", "umbrella", "key"),
    "has a cap on top": ("mushroom", "umbrella", "tree", "house"),
    "has a long thin part": ("arrow", "key", "umbrella", "flower"),
    "has a tail": ("fish", "arrow"),
    "has wings": ("butterfly",),
    "has wheels and windows": ("car",),
    "has windows and a door": ("house",),
    "has sails": ("boat",),
    "has petals": ("flower",),
    "has eyes": ("fish",),
    "grows": ("flower", "tree", "mushroom", "leaf", "apple", "grass"),
    "is wider than it is tall": ("fish", "boat", "car", "key"),
    "is taller than it is wide": ("tree", "house", "flower", "arrow"),
    "is open at the top": ("cup", "boat"),
    "moves": ("fish", "boat", "car", "butterfly", "water"),
    "is a plain shape": (
        *("star", "circle", "square", "triangle", "ring", "cross", "heart", "moon", "arrow"),
        "diamond",
    ),
    "is made by people": (
        *("house", "key", "cup", "umbrella", "boat", "bell", "car", "brick wall", "wood", "tiles"),
        "carpet",
    ),
    "is far away": ("sky", "mountain"),
    "is above everything": ("sky",),
    "lies underfoot": ("grass", "sand", "snow", "gravel", "earth", "wood", "tiles", "carpet"),
    "is inside a house": ("brick wall", "wood", "tiles", "carpet"),
    "is outside": ("sky", "mountain", "grass", "sand", "water", "snow", "gravel", "earth"),
    "is blue": ("sky", "water"),
    "is green": ("grass",),
    "is brown": ("earth", "wood"),
    "is red": ("brick wall", "carpet"),
    "is white": ("snow", "tiles"),
    "is grey": ("gravel", "mountain"),
    "is pale": ("sand", "snow", "sky"),
    "is grainy": ("sand", "gravel", "earth", "snow"),
    "is smooth": ("sky", "water", "snow"),
    "is soft": ("grass", "snow", "sand", "carpet"),
    "repeats a pattern": ("brick wall", "tiles", "carpet", "wood"),
    "has lines between its pieces": ("brick wall", "wood", "tiles"),
}
"""Facts, each with the nouns and grounds (their first names) of which it is true."""

FRAMES = (
    "{name} {trait}.",
    "{name} {trait}",
    "{name} {trait} and {other}.",
    "it {trait} and {other}: {name}.",
    "like {like}, {name} {trait}.",
    "{name} {trait}, and so does {like}.",
    "what {trait}? {name}, or {like}.",
)


def sentence(generator: np.random.Generator) -> str:
    """Return a random sentence of any of the three kinds, in lower case except for templates."""
    kind = generator.integers(3)
    if kind == 0:
        return caption(_scene_without_image(generator), generator)
    if kind == 1:
        return fact(generator)
    names = _NAMES[str(generator.choice(list(_NAMES)))]
    template = _TEMPLATES[generator.integers(len(_TEMPLATES))]
    return template.replace(PLACE, str(generator.choice(names)))


def fact(generator: np.random.Generator) -> str:
    """Return a fact about a random name, sometimes with another name of which it is also true."""
    first = str(generator.choice(list(_NAMES)))
    true = [trait for trait, names in TRAITS.items() if first in names]
    trait = str(generator.choice(true))
    like = [name for name in TRAITS[trait] if name != first]
    others = [other for other in true if other != trait]
    frames = [
        frame
        for frame in FRAMES
        if (like or "{like}" not in frame) and (others or "{other}" not in frame)
    ]
    words = {"name": _word(first, generator), "trait": trait}
    words["like"] = _word(str(generator.choice(like)), generator) if like else ""
    words["other"] = str(generator.choice(others)) if others else ""
    return str(generator.choice(frames)).format(**words)


def words() -> list[str]:
    """Return all words of the sentences and names, sorted.

    Digits and punctuation marks are words of their own.
    """
    generator = np.random.default_rng(0)
    said = [sentence(generator) for _ in range(6000)]
    said += [*TRAITS, *FRAMES, *_TEMPLATES, *COLOURS]
    for noun in NOUNS.values():
        said += [*noun.names, *map(plural, noun.names)]
    said += [name for ground in GROUNDS.values() for name in ground.names]
    letters = [
        "".join(sign if sign.isalpha() else f" {sign} " for sign in text.lower()) for text in said
    ]
    return sorted({word for text in letters for word in text.split()})


def _word(name: str, generator: np.random.Generator) -> str:
    return with_article(str(generator.choice(_NAMES[name])))


def _scene_without_image(generator: np.random.Generator) -> Scene:
    """Return a random scene that has regions, but only an empty image."""
    count = int(generator.integers(4))
    grounds = generator.choice(list(GROUNDS), size=1 + int(generator.random() < 0.5), replace=False)
    regions = [Region(number, str(name), False) for number, name in enumerate(grounds, 1)]
    for name in generator.choice(list(NOUNS), size=count):
        coat = {
            "colour": str(generator.choice(list(COLOURS))),
            "pattern": str(generator.choice(list(PATTERNS))),
        }
        regions.append(Region(len(regions) + 1, str(name), True, **coat))
    return Scene(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.int32), regions)


_NAMES = {
    **{name: noun.names for name, noun in NOUNS.items()},
    **{name: ground.names for name, ground in GROUNDS.items()},
}
_TEMPLATES = tuple(dict.fromkeys([*find_templates("vild14"), *find_templates("fusioner32")]))
