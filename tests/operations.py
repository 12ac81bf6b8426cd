"""Counts the operations that PyTorch dispatches: on a GPU each is at least one kernel to launch."""

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# They read a property, or only allocate.
NO_KERNEL = ("prim::", "aten::empty", "aten::new_empty", "aten::detach", "aten::_unsafe_view")
# They compute on the host.
ON_HOST = ("aten::promote_types", "aten::scalar_tensor")


class Operations(TorchDispatchMode):
    """Counts operations inside its context, by the name of their schema, without views."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if not func.is_view and not name.startswith(NO_KERNEL + ON_HOST):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return sum(self.counts.values())
