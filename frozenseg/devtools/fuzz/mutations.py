"""Twenty ways to damage the bytes of a file.

Each function gets the bytes, those of another file and a random generator, and returns the damaged
bytes.
"""

import random
import re
import struct
from collections.abc import Callable

Mutation = Callable[[bytearray, bytes, random.Random], bytearray]

ODD_NUMBERS = (0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63)
ODD_WORDS = (
    *("null", "true", "NaN", "-1", "0", "1e400", "7.9", '""', "[]", "{}", "[[]]", '"0"', ".nan"),
    *("9" * 30, "9" * 5000, "[" * 2000, '"\\ud800"', "\\u0000", '"../../x"', "&a [*a]", "\t", "\n"),
    *("\ufeff", "\u202e", "e\u0301", "x" * 300),
)
HEAD = 64  # bytes at the beginning, on which most depends
MOST_BYTES = 1_000_000  # larger files are cut to this size


def mutated(data: bytes, other: bytes, numbers: random.Random) -> bytes:
    """Damage the bytes in one to four ways."""
    changed = bytearray(data)
    for _ in range(numbers.choice((1, 1, 2, 4))):
        changed = numbers.choice(MUTATIONS)(changed or bytearray(1), other, numbers)
    return bytes(changed[:MOST_BYTES])


def _place(data: bytearray, numbers: random.Random) -> int:
    """Return a position in the file, in half of the cases near its beginning."""
    return numbers.randrange(min(len(data), HEAD) if numbers.random() < 0.5 else len(data))


def _slice(data: bytes | bytearray, numbers: random.Random) -> slice:
    start = numbers.randrange(max(1, len(data)))
    return slice(start, start + numbers.randint(1, max(1, len(data) // 4)))


def flip_bit(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Flip one bit."""
    data[_place(data, numbers)] ^= 1 << numbers.randrange(8)
    return data


def set_byte(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Set one byte to any value."""
    data[_place(data, numbers)] = numbers.randrange(256)
    return data


def odd_byte(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Set one byte to a value at or near an end of its signed or unsigned range."""
    data[_place(data, numbers)] = numbers.choice((0, 1, 127, 128, 255))
    return data


def step_byte(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Increase or decrease one byte slightly."""
    place = _place(data, numbers)
    data[place] = (data[place] + numbers.randint(-3, 3)) % 256
    return data


def cut_end(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Cut off the end, as an interrupted download does."""
    return data[: _place(data, numbers)]


def cut_begin(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Remove the beginning."""
    return data[_place(data, numbers) :]


def cut_inside(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Remove a piece."""
    del data[_slice(data, numbers)]
    return data


def repeat(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Duplicate a piece."""
    piece = _slice(data, numbers)
    data[piece.start : piece.start] = data[piece]
    return data


def copy_over(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Overwrite another place with a piece."""
    piece, place = data[_slice(data, numbers)], _place(data, numbers)
    data[place : place + len(piece)] = piece
    return data


def reverse(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Reverse a piece."""
    piece = _slice(data, numbers)
    data[piece] = data[piece][::-1]
    return data


def zero(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Overwrite a piece with zeros, as a power cut may do."""
    piece = _slice(data, numbers)
    data[piece] = bytes(len(data[piece]))
    return data


def noise(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Insert random bytes."""
    place = _place(data, numbers)
    data[place:place] = numbers.randbytes(numbers.randint(1, 32))
    return data


def insert_zeros(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Insert zeros."""
    place = _place(data, numbers)
    data[place:place] = bytes(numbers.randint(1, 32))
    return data


def splice(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Overwrite some bytes with a piece of another file."""
    piece, place = other[_slice(other, numbers)], _place(data, numbers)
    data[place : place + len(piece)] = piece
    return data


def head_of_other(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Overwrite the beginning with that of another file."""
    length = numbers.randint(1, HEAD)
    data[:length] = other[:length]
    return data


def append(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Append another file."""
    return data + other


def odd_short(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Write an unusual number of two bytes, e.g. 0 or the largest one."""
    return _written(data, "H", 2**16, numbers)


def odd_long(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Write an unusual number of four or eight bytes, e.g. 0 or the largest signed one."""
    return _written(data, *numbers.choice((("I", 2**32), ("Q", 2**64))), numbers)


def _written(data: bytearray, kind: str, end: int, numbers: random.Random) -> bytearray:
    packed = struct.pack(numbers.choice("<>") + kind, numbers.choice(ODD_NUMBERS) % end)
    place = _place(data, numbers)
    data[place : place + len(packed)] = packed
    return data


def odd_word(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Replace a number or a word of a text with one that is not expected there."""
    found = list(re.finditer(rb'"[^"\n]{0,40}"|-?\d+(\.\d+)?|\w+', bytes(data[:100_000])))
    if found:
        word = numbers.choice(found)
        data[word.start() : word.end()] = numbers.choice(ODD_WORDS).encode("utf-8")
    return data


def exchange_words(data: bytearray, other: bytes, numbers: random.Random) -> bytearray:
    """Exchange two words or numbers of a text."""
    found = list(re.finditer(rb'"[^"\n]{0,40}"|-?\d+(\.\d+)?', bytes(data[:100_000])))
    if len(found) > 1:
        first, second = sorted(numbers.sample(found, 2), key=lambda word: word.start())
        data[second.start() : second.end()] = first[0]
        data[first.start() : first.end()] = second[0]
    return data


MUTATIONS: list[Mutation] = [
    flip_bit,
    set_byte,
    odd_byte,
    step_byte,
    cut_end,
    cut_begin,
    cut_inside,
    repeat,
    copy_over,
    reverse,
    zero,
    noise,
    insert_zeros,
    splice,
    head_of_other,
    append,
    odd_short,
    odd_long,
    odd_word,
    exchange_words,
]
