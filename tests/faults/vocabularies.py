"""Class names: on the command line, in files, from Python."""

from tests.faults.table import Case, Make, raw

DEMO = "demo --config-file world/tiny.yaml --input world/data/images/1.png --output out"

# name, text of a file, what is said; the tiny model knows no word, but names reach it
FILES: list[tuple[str, str | bytes, int, str]] = [
    ("byte_order_mark", "\ufeffcar\nroad\n", 0, "1 road"),
    ("byte_order_mark_ids", "\ufeff0:invalid_class_id\n1:car\n2:road\n", 0, "1 road"),
    ("twice", "car\nroad\ncar\n", 2, "car"),
    ("two_spellings", "car\nCar\n", 2, "Car"),
    ("composed_or_not", "caf\u00e9\ncafe\u0301\n", 2, "caf"),
    ("sections", "[other]\ncar\n", 2, r"\[other\]"),
    ("semicolons", "car;sky;road\n", 2, "has a `;`"),
    ("utf16", "car\n".encode("utf-16"), 2, "UTF-8"),
    ("latin1", "caf\u00e9\n".encode("latin-1"), 2, "UTF-8"),
    ("empty", "", 2, "x.txt"),
    ("binary", b"\x00\xff\xfe\x01" * 9, 2, "x.txt"),
    ("long_line", "a" * 5000 + "\n", 2, "characters|long"),
]
# name, text of the option, what the line says
TEXTS: list[tuple[str, str, int, str]] = [
    ("empty", "", 2, "vocabulary|empty"),
    ("commas", ",,,", 2, "class name|empty|vocabulary"),
    ("two_spellings", "car;Car", 2, "[Cc]ar"),
    ("long_name", "a" * 4000, 2, "characters|tokens|long"),
    ("file_missing", "classes.txt", 2, "classes.txt"),
]


def python(code: str) -> str:
    return (
        "python import frozenseg; segment = frozenseg.load('world/tiny.yaml', "
        f"weights='world/weights.safetensors'); image = 'world/data/images/1.png'; {code}"
    )


VALUES = [
    "None",
    "5",
    "[1, 2]",
    "b'car'",
    "[b'car']",
    "float('nan')",
    "[]",
    "[[]]",
    "['a\\ud800b']",
]

_recipes: dict[str, Make] = {name: raw("x.txt", text) for name, text, _, _ in FILES}
CASES = [
    *(Case(f"file_{name}", f"{DEMO} --vocabulary-file x.txt", status, words, _recipes[name],
           fast=status == 2)
      for name, _, status, words in FILES),
    *(Case(f"text_{name}", f'{DEMO} --vocabulary "{text}"', status, words, fast=len(text) < 10)
      for name, text, status, words in TEXTS),
    Case("text_not_utf8", f'{DEMO} --vocabulary "caf\udce9;car"', 2, r"caf", fast=True),
    Case("text_surrogate", f'{DEMO} --vocabulary "a\ud800b;car"', 2, "a", fast=True),
    Case("text_too_many_tokens", DEMO.replace("/1.png", "") + ' --vocabulary "'
         + "a photo of " * 30 + '"', 2, "too long for the text encoder|characters"),
    *(Case(f"python_{value}", python(f"segment(image, vocabulary={value})"), 2, "vocabulary|name",
           fast=number < 2)
      for number, value in enumerate(VALUES)),
]  # fmt: skip
