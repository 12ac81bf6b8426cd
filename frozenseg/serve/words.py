"""Read the words of a request. They are only text: a request cannot name a file."""

import json
from typing import Any

from frozenseg.errors import UserError
from frozenseg.serve.jobs import Refusal
from frozenseg.serve.limits import Limits
from frozenseg.text.names import shown, spelling
from frozenseg.text.parsing import rows_of
from frozenseg.text.vocabulary import Vocabulary

# An unknown thing is compared with the names of the vocabulary, to suggest a similar one, only if
# the vocabulary has at most this many names.
MOST_COMPARED = 200


def read_vocabulary(text: str, things: str | None, limits: Limits) -> Vocabulary:
    """Read the fields `vocabulary` and `things` of a request.

    Each is text like "car, truck; road", or JSON: a list of classes, each a string or a list of
    synonyms. Raises `Refusal` with status 422 if a field holds no valid names or too many. A long
    text takes about a second, so do not call this in an event loop.
    """
    source = _value(text, "vocabulary", limits)
    flags = None if things is None else _value(things, "things", limits)
    try:
        vocabulary = Vocabulary.parse(source)
        _check_size(vocabulary, limits)
        if flags and len(vocabulary.flat_names) > MOST_COMPARED:
            _check_things(flags, vocabulary)
        return Vocabulary.parse(vocabulary, flags)
    except UserError as error:
        raise Refusal(422, str(error)) from None


def _check_size(vocabulary: Vocabulary, limits: Limits) -> None:
    names = vocabulary.flat_names
    if len(names) > limits.names:
        raise Refusal(422, f"vocabulary: {len(names)} names, at most {limits.names} are allowed")
    if longest := [name for name in names if len(name) > limits.letters]:
        raise Refusal(
            422,
            f"vocabulary: {longest[0][:40]}...: a name may have at most {limits.letters} letters",
        )


def _check_things(things: Any, vocabulary: Vocabulary) -> None:
    """Refuse a thing that is not in the vocabulary, without searching for a similar name.

    Among thousands of long names, that search takes seconds.
    """
    named = [name for row in rows_of(things, "things") for name in row.names]
    if unknown := [name for name in named if spelling(name) not in vocabulary.spellings]:
        raise Refusal(422, f"things: {shown(unknown[0])} is not in the vocabulary")


def _value(text: str, field: str, limits: Limits) -> Any:
    if len(text) > limits.names * (limits.letters + 8):
        raise Refusal(422, f"{field}: {len(text):,} characters are too many")
    text = text.strip()
    if not text.startswith(("[", "{")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal(422, f"{field}: begins like JSON, but is not valid JSON") from None
    if isinstance(value, list) and all(_is_class(entry) for entry in value):
        return value
    raise Refusal(422, f'{field}: expected a JSON list of classes, e.g. ["car, truck", "road"]')


def _is_class(entry: Any) -> bool:
    if isinstance(entry, list):
        return bool(entry) and all(isinstance(name, str) for name in entry)
    return isinstance(entry, str)
