"""Calls from Python: images that are none, processes and threads."""

from tests.faults.table import Case

LOAD = (
    "import os, threading, numpy as np, torch, frozenseg; from PIL import Image; "
    "torch.set_num_threads({}); segment = frozenseg.load('world/tiny.yaml', "
    "weights='world/weights.safetensors'); pixels = np.zeros((40, 30, 3), np.uint8)\n"
)
SEGMENT = "python " + LOAD.format(1) + "segment({}, vocabulary=['car', 'road'])"
FORK = (
    LOAD.format(2)
    + """
segment(pixels, vocabulary=['car'])
child = os.fork()
if not child:
    segment(pixels, vocabulary=['car'])
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
"""
)
RACE = (
    LOAD.format(1)
    + """
import sys
from frozenseg.text.vocabulary import Vocabulary
sys.setswitchinterval(1e-6)
pairs = [(Vocabulary.parse(text), count) for text, count in (('a, b; c; d', 4), ('e', 1))]
wrong = []
def ask(words, count):
    for _ in range(3000):
        if len(segment.embed(words).class_index) != count:
            wrong.append(words)
threads = [threading.Thread(target=ask, args=pair) for pair in pairs]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not wrong
"""
)

# What is no image; the message names it.
VALUES = [
    "torch.zeros(3, 4, 4, device='meta')",
    "torch.zeros(3, 4, 4).to_sparse()",
    "torch.zeros(3, 4, 4, dtype=torch.complex64)",
    "'a' * 300",
    "'missing.png'",
    "''",
    "'a\\0b'",
    "None",
    "5",
    "b'x'",
    "Image.new('RGB', (0, 5))",
    "pixels[..., :2]",
    "pixels[:0]",
    "pixels.astype(float) + np.nan",
    "pixels.astype(complex)",
    "pixels.astype(object)",
    "pixels.astype(int)",
]
CLOSED = "(lambda image: (image.close(), image)[1])(Image.open('world/data/images/1.png'))"

CASES = [
    *(Case(value, SEGMENT.format(value), 2, "image|pixel|file", fast=number < 2)
      for number, value in enumerate(VALUES)),
    Case("closed", SEGMENT.format(CLOSED), 2, "image"),
    Case("fork", f"python {FORK}", 0, "error: this process was forked"),
    Case("embed_of_two_threads", f"python {RACE}", 0, ""),
]  # fmt: skip
