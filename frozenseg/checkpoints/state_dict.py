"""Read and write state dicts, check every entry, and load them strictly into a model.

A published `.pth` file holds the entire model, including the frozen parts, under detectron2's names
(see `published_names`). The files of this package hold only the trained parts.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from frozenseg.checkpoints.published_names import from_published, is_published
from frozenseg.checkpoints.published_names import to_published as to_published
from frozenseg.checkpoints.tensor_files import is_safetensors, read_safetensors, read_torch
from frozenseg.encoders.frozen import frozen_parts, part_of
from frozenseg.errors import UserError, listed
from frozenseg.files import atomic_path, user_path

# The Query Injector shares its projection with the class embedding, so a file holds it only once,
# without the entries of this name.
SHARED = "mask_decoder.query_injector.projection."


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the entries of the model's state dict, with shared ones only once."""
    return {name: tensor for name, tensor in model.state_dict().items() if SHARED not in name}


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the entries of `model_state` that training changes."""
    frozen = frozen_parts(model)
    return {
        name: tensor for name, tensor in model_state(model).items() if part_of(name, frozen) is None
    }


class WeightsMismatch(UserError):
    """The weights do not fit the model.

    problems: the entries that do not fit.
    difference: a key of `DIFFERENCES`: the option in which the model and the weights differ, or
        "configuration" if it cannot be inferred.
    shapes: the shapes of the weights, by name.
    """

    def __init__(
        self, problems: str, difference: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        super().__init__(f"{problems}. {DIFFERENCES[difference]}")
        self.problems, self.difference, self.shapes = problems, difference, shapes


DIFFERENCES = {
    "SAM encoder levels": "The SAM pixel decoder was trained with other encoder levels.",
    "weights without injectors": "The weights have no injectors, like the weights of FC-CLIP.",
    "weights with injectors": "The weights have injectors, but the model has none.",
    "weights without mask adapter": "The weights have no mask adapter.",
    "weights with mask adapter": "The weights have a mask adapter, but the model has none.",
    "configuration": "Use the configuration that the weights were trained with.",
}


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], origin: str, new: Collection[str] = ()
) -> set[str]:
    """Copy a state dict with published names or our own into the model.

    Returns the names of the frozen parts, and of the parts `new`, that the state dict contained.

    new: names of trained parts that the state dict may lack, because they have yet to be trained.

    Loading is strict: missing, unexpected and mis-shaped entries, and entries without plain finite
    numbers, are named in one `UserError`, and the model is left unchanged. A frozen part, which has
    a file of its own, or a part of `new` may be missing, but only with all of its entries.
    """
    if is_published(state):
        try:
            state = from_published(state)
        except UserError as error:
            raise UserError(f"weights {origin}: {error}") from None
    check_tensors(state, origin)
    targets = model_state(model)
    apart = frozen_parts(model).union(new)
    parts = {part for name in state if (part := part_of(name, apart)) is not None}
    optional = {name for name in targets if part_of(name, apart - parts) is not None}
    _copy(targets, state, optional, f"weights {origin} do not fit the model")
    return parts


def load_encoder(module: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Copy the state dict of a frozen encoder into `module`, as strictly as `load_state` does."""
    check_tensors(state, origin)
    _copy(module.state_dict(), state, set(), f"weights {origin}: not those of this encoder")


def _copy(
    targets: Mapping[str, Tensor], state: Mapping[str, Tensor], optional: set[str], complaint: str
) -> None:
    """Fill the tensors `targets` of a model from `state`, which may lack those in `optional`."""
    missing = [
        name
        for name in targets
        if name not in state
        and name not in optional
        and not name.endswith("num_batches_tracked")  # step counters that old files lack
    ]
    unexpected = [name for name in state if name not in targets]
    shared = [name for name in targets if name in state]
    misshaped = [
        f"{name} {tuple(state[name].shape)}, the model has {tuple(targets[name].shape)}"
        for name in shared
        if state[name].shape != targets[name].shape
    ]
    mistyped = [
        f"{name} {_kind(state[name])}, the model has {_kind(targets[name])}"
        for name in shared
        if state[name].is_floating_point() != targets[name].is_floating_point()
    ]
    kinds = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": misshaped,
        "of another type": mistyped,
    }
    problems = [
        f"{len(names)} {kind} ({listed(names, 2)})" for kind, names in kinds.items() if names
    ]
    if problems:
        raise WeightsMismatch(
            f"{complaint}: entries {'; '.join(problems)}",
            _difference(missing, unexpected, misshaped),
            {name: tuple(tensor.shape) for name, tensor in state.items()},
        )
    with torch.no_grad():
        for name in shared:
            targets[name].copy_(state[name])


# A model cannot compute with larger weights, because their square overflows float32.
LARGEST = torch.finfo(torch.float32).max ** 0.5
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_tensors(state: Mapping[str, Tensor], origin: str) -> None:
    """Raise `UserError` that names the tensors that no model can compute with.

    These are tensors without plain numbers (complex, quantised, sparse, or on the meta device), and
    tensors with NaN, infinity, or numbers whose magnitude exceeds `LARGEST`.
    """
    odd = [f"{name} ({_kind(tensor)})" for name, tensor in state.items() if not _is_plain(tensor)]
    if odd:
        raise UserError(
            f"weights {origin}: {len(odd)} of {len(state)} entries hold no plain numbers: "
            f"{listed(odd)}; save them as float32"
        )
    wrong = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if wrong:
        raise UserError(
            f"weights {origin}: {len(wrong)} of {len(state)} entries hold numbers that are not "
            f"finite or too large: {listed(wrong)}; the training that made them diverged, or the "
            "file is damaged: use an earlier checkpoint, or get the file again"
        )


def _is_plain(tensor: Tensor) -> bool:
    return (
        tensor.layout == torch.strided
        and not tensor.is_quantized
        and tensor.device.type != "meta"
        and tensor.dtype in (*FLOATS, *WHOLE)
    )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # As Python's numbers: in half precision `LARGEST` is infinite itself. Of NaN, both are NaN.
    low, high = (bound.item() for bound in torch.aminmax(tensor.detach()))
    return low >= -LARGEST and high <= LARGEST


def _kind(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided:
        return f"sparse {kind}"
    return f"{kind} without memory" if tensor.device.type == "meta" else kind


# Suffixes of the entries of a table that is stored without its zero rows: the indices (n,) and the
# values (n, D) of its other rows, and its total number of rows (1,).
_PLACES, _VALUES, _LENGTH = "@places", "@values", "@length"
LARGEST_TABLES = 100_000_000  # numbers; limits the memory that a file can make us allocate


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict in which tables of mostly zero rows are stored sparsely.

    `read_state` restores them. The captions of the small world, for example, use only a few hundred
    of the small CLIP's 49,408 tokens.
    """
    small: dict[str, Tensor] = {}
    for name, tensor in state.items():
        used = tensor.flatten(1).any(dim=1) if tensor.ndim == 2 else torch.ones(1, dtype=torch.bool)
        if used.float().mean() > 0.5:
            small[name] = tensor
            continue
        places = used.nonzero()[:, 0]
        small[name + _PLACES] = places.int()
        small[name + _VALUES] = tensor[places]
        small[name + _LENGTH] = torch.tensor([len(tensor)], dtype=torch.int32)
    return small


def _unpacked(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the state dict that was given to `packed`; raises `UserError` for entries that do not
    fit together."""
    whole = {name: tensor for name, tensor in state.items() if "@" not in name}
    tables = {name.rpartition("@")[0] for name in state if "@" in name}
    left = LARGEST_TABLES
    for table in sorted(tables):
        parts = [state.get(table + suffix) for suffix in (_PLACES, _VALUES, _LENGTH)]
        places, values, length = parts
        if (
            places is None
            or values is None
            or length is None
            or not _fits(places, values, length, left)
        ):
            raise UserError(f"weights {path}: the rows of {table} do not fit; get it again")
        left -= int(length) * values.shape[1]
        whole[table] = values.new_zeros(int(length), values.shape[1])
        whole[table][places.long()] = values
    return whole


def _fits(places: Tensor, values: Tensor, length: Tensor, most: int) -> bool:
    """Tell whether these entries make a table: valid row indices, and at most `most` numbers."""
    numbers = (places, length)
    if length.numel() != 1 or any(tensor.dtype not in WHOLE[1:] for tensor in numbers):
        return False
    rows = int(length)
    return (
        values.ndim == 2
        and places.shape == (len(values),)
        and rows >= 0
        and rows * values.shape[1] <= most
        and bool(((places >= 0) & (places < rows)).all())
    )


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or `torch.save` file, on the CPU.

    No code of the file is executed. All tensors are checked by `check_tensors`, so they are finite.
    Raises `UserError` for a file that cannot be used.
    """
    path = user_path(path)
    if is_safetensors(path):
        state = _unpacked(read_safetensors(path), path)
    else:
        state = _state_dict(read_torch(path), path)
    check_tensors(state, str(path))
    return state


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """Return the state dict in the content of a torch file."""
    for key in ("model", "state_dict"):  # the keys of detectron2's and open_clip's files
        if isinstance(content, dict) and isinstance(content.get(key), dict) and content[key]:
            content = content[key]
    if isinstance(content, dict) and isinstance(content.get("weights"), dict):
        # A training checkpoint of ours; its average, where there is one, is preferred. Decoders
        # behind which a mask adapter trains alone have none.
        average = content.get("average")
        content = content["weights"] | (average if isinstance(average, dict) else {})
    if (
        not isinstance(content, dict)
        or not all(isinstance(name, str) for name in content)
        or not all(map(torch.is_tensor, content.values()))
    ):
        raise UserError(f"weights {path}: a state dict (names and tensors) was expected")
    # DistributedDataParallel puts this prefix before all names; otherwise it belongs to the names.
    prefix = "module."
    if not all(name.startswith(prefix) for name in content):
        return content
    return {name.removeprefix(prefix): tensor for name, tensor in content.items()}


def write_state(path: str | os.PathLike[str], state: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically; those that share memory are written separately."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = (tensor.clone() if place in seen else tensor).contiguous()
        seen.add(place)
    with atomic_path(path) as temporary:
        if temporary == Path(path):  # a device or a pipe, which `save_file` would replace by a file
            temporary.write_bytes(save(tensors))
        else:
            save_file(tensors, temporary)


def _difference(missing: list[str], unexpected: list[str], misshaped: list[str]) -> str:
    """Return the key of `DIFFERENCES` for the option in which the model and the weights differ."""
    if misshaped and all(entry.startswith("sam_branch.encoder") for entry in misshaped):
        return "SAM encoder levels"
    for part, names in OPTIONAL_PARTS.items():
        if not misshaped and not unexpected and all(name.startswith(names) for name in missing):
            return f"weights without {part}"
        if not misshaped and not missing and all(name.startswith(names) for name in unexpected):
            return f"weights with {part}"
    return "configuration"


INJECTORS = ("sam.", "sam_branch.", "mask_decoder.feature_injector", "mask_decoder.query_injector")
"""Prefixes of the entries that FC-CLIP lacks: those of SAM and of both injectors."""
OPTIONAL_PARTS = {"injectors": INJECTORS, "mask adapter": ("mask_adapter.",)}
