"""--vocabulary, --vocabulary-file and --things, for the commands that segment files."""

import argparse
from dataclasses import replace

from frozenseg.errors import UserError
from frozenseg.files import user_path
from frozenseg.text.vocabulary import Vocabulary


def add_vocabulary(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the classes to a command line."""
    add = parser.add_argument
    add(
        "--vocabulary",
        help='classes separated by ";", and synonyms of a class by ",": "car, truck; road"',
    )
    add(
        "--vocabulary-file",
        type=user_path,
        help="file with one class per line, name,synonym or id:name,synonym; or a JSON or CSV file",
    )
    add("--things", help='the classes that are countable things, in the same form ("": none)')


def vocabulary_of(arguments: argparse.Namespace) -> Vocabulary:
    """Return the requested classes."""
    if (arguments.vocabulary is None) == (arguments.vocabulary_file is None):
        raise UserError(
            'name the classes with either --vocabulary "a, b; c" or --vocabulary-file F'
        )
    if arguments.vocabulary_file is None:
        vocabulary = Vocabulary.parse(arguments.vocabulary, arguments.things)
        return replace(vocabulary, source="--vocabulary")
    return Vocabulary.parse(Vocabulary.from_file(arguments.vocabulary_file), arguments.things)
