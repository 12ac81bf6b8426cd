"""Make weights small enough to ship: half precision, and tables without their zero rows."""

import argparse

import torch
from torch import Tensor

from frozenseg.checkpoints.state_dict import packed, read_state, write_state
from frozenseg.commands.output_argument import output_file, refuse_input
from frozenseg.errors import UserError
from frozenseg.files import user_path


def main(argv: list[str]) -> int | None:
    """Write the weights in half precision, with sparse tables."""
    arguments = _parser().parse_args(argv)
    if arguments.output.suffix != ".safetensors":
        raise UserError(f"{arguments.output}: the output must end in .safetensors")
    refuse_input(arguments.output, [arguments.weights])
    state = read_state(arguments.weights)
    write_state(
        arguments.output, packed({name: _halved(tensor, name) for name, tensor in state.items()})
    )
    size = arguments.output.stat().st_size / 1e6
    print(f"{arguments.output}: {len(state)} tensors, {size:.1f} MB")
    return None


def _halved(tensor: Tensor, name: str) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    if not torch.isfinite(half).all():
        raise UserError(f"{name}: holds numbers beyond half precision (65504); keep the original")
    return half


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg pack_weights", description=__doc__)
    parser.add_argument("weights", type=user_path, help="a checkpoint that this package reads")
    parser.add_argument("output", type=output_file, help="a .safetensors file")
    return parser
