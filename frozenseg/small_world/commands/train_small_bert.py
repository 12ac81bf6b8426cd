"""Train a small BERT on sentences of the small world, without pictures.

The encoder is written to OUTPUT/bert, a folder in the format of the Hugging Face hub.
"""

import argparse
import tempfile
from pathlib import Path

from frozenseg.small_world.commands import training_arguments
from frozenseg.small_world.pretraining.bert import BertTask, WordGuesser, make_tokenizer
from frozenseg.small_world.pretraining.loop import train


def main(argv: list[str]) -> int | None:
    """Train, print the scores, and write the encoder."""
    arguments = _parser().parse_args(argv)
    config, run = training_arguments.settings_from(arguments, weight_decay=0.01)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(Path(folder))
        task = BertTask(
            model=WordGuesser(len(tokenizer)),
            tokenizer=tokenizer,
            seed=config.seed,
            test_sentences=arguments.test_samples,
        )
        training_arguments.report(train(task, config, run, resume=arguments.resume))
        task.write_encoder(run.folder / "bert")
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg train_small_bert", description=__doc__)
    training_arguments.add_run_arguments(parser, steps=1500, batch=64, tests=1000, of="sentences")
    parser.set_defaults(precision="fp32")  # bfloat16 is slower with so few channels
    return parser
