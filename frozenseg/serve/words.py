"""The words of a request, which are text and nothing else: no file is ever named by one."""

import json
from typing import Any

from frozenseg.errors import UserError
from frozenseg.serve.jobs import Refusal
from frozenseg.serve.limits import Limits
from frozenseg.text.names import shown, spelling
from frozenseg.text.parsing import rows_of
from frozenseg.text.vocabulary import Vocabulary

MOST_COMPARED = 200  # names with which a thing that is none of them is compared, to suggest one


def read_vocabulary(text: str, things: str | None, limits: Limits) -> Vocabulary:
    """Read the fields `vocabulary` and `things` of a request.

    Each is text like "car, truck; road", or JSON: a list of classes, each a string or a list of
    synonyms. Raises `Refusal` with status 422 if they are no names or too many. A long text takes
    a second, for which an event loop must not be held up.
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
        raise Refusal(422, f"vocabulary: {len(names)} names, at most {limits.names} are taken")
    if longest := [name for name in names if len(name) > limits.letters]:
        raise Refusal(
            422, f"vocabulary: {longest[0][:40]}...: a name may have {limits.letters} letters"
        )


def _check_things(things: Any, vocabulary: Vocabulary) -> None:
    """Refuse a thing that is not in the vocabulary, without the search for what it resembles:
    among thousands of long names that takes seconds."""
    named = [name for row in rows_of(things, "things") for name in row.names]
    if unknown := [name for name in named if spelling(name) not in vocabulary.spellings]:
        raise Refusal(422, f"things: {shown(unknown[0])} is not in the vocabulary")


def _value(text: str, field: str, limits: Limits) -> Any:
    if len(text) > limits.names * (limits.letters + 8):
        raise Refusal(422, f"{field}: {len(text):,} letters are too many")
    text = text.strip()
    if not text.startswith(("[", "{")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal(422, f"{field}: begins like JSON and is none") from None
    if isinstance(value, list) and all(_is_class(entry) for entry in value):
        return value
    raise Refusal(422, f'{field}: a JSON list of classes was expected, e.g. ["car, truck", "road"]')


def _is_class(entry: Any) -> bool:
    if isinstance(entry, list):
        return bool(entry) and all(isinstance(name, str) for name in entry)
    return isinstance(entry, str)
