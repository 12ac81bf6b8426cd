"""`torch.compile`, which on some machines cannot compile, and must not cost the result then."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

logger = logging.getLogger(__name__)


def compile_where_possible(
    method: Callable[..., Any], name: str, *, dynamic: bool | None
) -> Callable[..., Any]:
    """`method` compiled; as it is, from the first call on that cannot be compiled.

    name: for the warning. dynamic: as `torch.compile` has it. Errors of the method itself come up
    as they would without compiling.
    """
    made = torch.compile(method, dynamic=dynamic)
    compiled: Callable[..., Any] | None = made

    @functools.wraps(made)  # its marks say that it is compiled
    def run(*arguments: Any, **options: Any) -> Any:
        nonlocal compiled
        if compiled is not None:
            try:
                return compiled(*arguments, **options)
            except TorchDynamoException as error:
                compiled = None
                logger.warning(
                    "%s cannot be compiled here and runs as it is (%s: %s)",
                    name,
                    type(error).__name__,
                    " ".join(str(error).split())[:300],
                )
        return method(*arguments, **options)

    return run
