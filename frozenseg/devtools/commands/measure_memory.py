"""Measure the peak memory of segmenting one image, on Linux, with a CPU or CUDA.

Weights, image and text vectors are random, because memory does not depend on them.
"""

import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F

from frozenseg.build.prediction import build_predictor
from frozenseg.commands.number_arguments import check_least
from frozenseg.commands.output_argument import output_file
from frozenseg.config import load_config
from frozenseg.devtools.speed.memory import measure_memory
from frozenseg.files import writing
from frozenseg.structures import TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary


def main(argv: list[str]) -> None:
    """Segment one image and print the peak memory that this took."""
    parser = argparse.ArgumentParser(prog="frozenseg measure_memory", description=__doc__)
    parser.add_argument("--config-file", help="YAML file; default: the published ConvNeXt-L model")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(1024, 2048),
        metavar=("H", "W"),
        help="size of the image in pixels (default: 1024 2048)",
    )
    parser.add_argument("--classes", type=int, default=847, help="number of classes (default: 847)")
    parser.add_argument(
        "--json", type=output_file, help="append the numbers to this file, as one line of JSON"
    )
    parser.add_argument(
        "options", nargs="*", metavar="KEY VALUE", help="settings that override the YAML file"
    )
    arguments = parser.parse_intermixed_args(argv)
    check_least(arguments, size=1, classes=1)
    options = ["MODEL.ALLOW_RANDOM_WEIGHTS", "True", "SEED", "0", *arguments.options]
    cfg = load_config(arguments.config_file, options)
    predictor = build_predictor(cfg)
    names = tuple((f"class {number}",) for number in range(arguments.classes))
    vocabulary = Vocabulary(names, (True,) * len(names))
    text = TextEmbeddings(
        weight=F.normalize(torch.randn(len(names), predictor.model.text_encoder.embed_dim), dim=-1),
        class_index=torch.arange(len(names)),
        seen=torch.arange(len(names)) % 2 == 0,
    ).to(predictor.model.device)
    pixels = np.random.default_rng(0).integers(0, 256, (*arguments.size, 3), dtype=np.uint8)
    memory = measure_memory(
        lambda: predictor.segment(pixels, vocabulary, text), predictor.model.device
    )
    numbers = {
        "size": list(arguments.size),
        "classes": arguments.classes,
        "input": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST],
        "tasks": [key for key, on in cfg.MODEL.MASK_FORMER.TEST.items() if on is True],
        "device": str(predictor.model.device),
        **memory.report(),
    }
    print(json.dumps(numbers))
    if arguments.json:
        with writing(arguments.json):
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            with open(arguments.json, "a", encoding="utf-8") as file:
                file.write(json.dumps(numbers) + "\n")
