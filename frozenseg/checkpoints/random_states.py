"""The states of a process's random generators, in a form that fits into JSON and checkpoints."""

import random
from typing import Any

import numpy as np
import torch

from frozenseg.errors import UserError

WORDS = 624  # 32-bit words in the state of a Mersenne Twister, which Python and numpy use
CUDA_BYTES = 16  # size of the state of a CUDA generator: its seed and its offset


def random_state() -> dict[str, Any]:
    """Return the states of all generators of this process; those of GPUs only if it used CUDA."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in cuda],
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "python": [version, list(words), gauss],
    }


def check_random_state(state: Any) -> None:
    """Raise `UserError` unless `restore_random_state` can use the state.

    Sizes and value ranges are checked first; then the states of torch and Python are loaded into
    temporary generators.
    """
    if not isinstance(state, dict) or state.keys() != {"torch", "cuda", "numpy", "python"}:
        raise UserError("random states: the keys torch, cuda, numpy and python were expected")
    try:
        _set_torch(torch.Generator(), state["torch"], torch.Generator().get_state().numel())
        for row in _listed(state["cuda"]):
            _whole(row, CUDA_BYTES, 256)
        _numpy(state["numpy"])
        _set_python(random.Random(), state["python"])
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        first_line = str(error).partition("\n")[0]
        raise UserError(f"random states: not states of a generator ({first_line})") from None


def restore_random_state(states: list[dict[str, Any]], rank: int) -> None:
    """Set the generators of this process to the saved states of its rank.

    A rank without a saved state keeps its current ones. The states of CUDA generators are restored
    only if this process uses CUDA and the number of GPUs is the same.
    """
    if rank >= len(states):
        return
    state = states[rank]
    _set_torch(torch.default_generator, state["torch"], len(state["torch"]))
    if torch.cuda.is_initialized() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(
            [torch.tensor(row, dtype=torch.uint8) for row in state["cuda"]]
        )
    np.random.set_state(_numpy(state["numpy"]))
    _set_python(random, state["python"])


def _set_torch(generator: torch.Generator, state: Any, length: int) -> None:
    generator.set_state(torch.tensor(_whole(state, length, 256), dtype=torch.uint8))


def _set_python(generator: Any, state: Any) -> None:
    version, words, gauss = _listed(state)
    generator.setstate((version, tuple(_whole(words, WORDS + 1, 2**32)), gauss))


def _numpy(state: Any) -> tuple[str, np.ndarray, int, int, float]:
    name, keys, position, has_gauss, gauss = _listed(state)
    if name != "MT19937" or has_gauss not in (0, 1):
        raise ValueError("not a Mersenne Twister")
    # With a larger position, numpy itself would read beyond the end of the words.
    (position,) = _whole([position], 1, WORDS + 1)
    words = np.array(_whole(keys, WORDS, 2**32), dtype=np.uint32)
    return name, words, position, int(has_gauss), float(gauss)


def _listed(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise TypeError("a list was expected")
    return values


def _whole(values: Any, length: int, end: int) -> list[int]:
    """Return `values` if it is a list of `length` integers in [0, end); else raise an error."""
    if len(_listed(values)) != length:
        raise ValueError(f"{len(values)} numbers found, {length} were expected")
    if not all(type(value) is int and 0 <= value < end for value in values):
        raise ValueError(f"whole numbers below {end} were expected")
    return values
