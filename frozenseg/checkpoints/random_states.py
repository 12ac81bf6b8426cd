"""The states of a process's random generators, in a form that JSON and checkpoints carry."""

import random
from typing import Any

import numpy as np
import torch

from frozenseg.errors import UserError

WORDS = 624  # 32-bit words in the state of a Mersenne twister: Python's and numpy's
CUDA_BYTES = 16  # seed and offset


def random_state() -> dict[str, Any]:
    """Return the states of all generators of this process; of GPUs, if it has used one."""
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
    """Raise a `UserError` unless `restore_random_state` can use the state: sizes and ranges are
    checked first, and then generators made for this take it."""
    if not isinstance(state, dict) or state.keys() != {"torch", "cuda", "numpy", "python"}:
        raise UserError("random states: those of torch, cuda, numpy and python were expected")
    try:
        _set_torch(torch.Generator(), state["torch"], torch.Generator().get_state().numel())
        for row in _listed(state["cuda"]):
            _whole(row, CUDA_BYTES, 256)
        _numpy(state["numpy"])
        _set_python(random.Random(), state["python"])
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        first_line = str(error).partition("\n")[0]
        raise UserError(f"random states: not those of a generator ({first_line})") from None


def restore_random_state(states: list[dict[str, Any]], rank: int) -> None:
    """Set the generators as the process of this rank left them; a rank without a saved state keeps
    its own."""
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
        raise ValueError("no Mersenne twister")
    # numpy itself would read behind the words
    (position,) = _whole([position], 1, WORDS + 1)
    words = np.array(_whole(keys, WORDS, 2**32), dtype=np.uint32)
    return name, words, position, int(has_gauss), float(gauss)


def _listed(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise TypeError("a list was expected")
    return values


def _whole(values: Any, length: int, end: int) -> list[int]:
    """`values` if it is a list of `length` whole numbers from 0 up to, but without, `end`."""
    if len(_listed(values)) != length:
        raise ValueError(f"{len(values)} numbers, {length} were expected")
    if not all(type(value) is int and 0 <= value < end for value in values):
        raise ValueError(f"whole numbers below {end} were expected")
    return values
