"""`torch.compile` if it works; otherwise the method runs uncompiled, with a warning."""

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
    """Compile `method`; once a call fails to compile, that call and all later ones run uncompiled.

    name: the name of the method in the warning. dynamic: as in `torch.compile`. Errors of the
    method itself are raised as they would be without compiling.
    """
    made = torch.compile(method, dynamic=dynamic)
    compiled: Callable[..., Any] | None = made

    @functools.wraps(made)  # keeps the attributes that mark a compiled function
    def run(*arguments: Any, **options: Any) -> Any:
        nonlocal compiled
        if compiled is not None:
            try:
                return compiled(*arguments, **options)
            except TorchDynamoException as error:
                compiled = None
                logger.warning(
                    "%s cannot be compiled here and runs uncompiled (%s: %s)",
                    name,
                    type(error).__name__,
                    " ".join(str(error).split())[:300],
                )
        return method(*arguments, **options)

    return run
