"""Registers shape inference and autograd for the custom operators of deformable attention.

Because it is a custom operator, deformable attention is a single node of a compiled graph.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.library import CustomOpDef


def connect(forward: CustomOpDef, backward: CustomOpDef) -> None:
    """Register `backward` as the gradient of `forward`, and the output shapes of both.

    forward: takes (value, heights, widths, locations, weights) and returns the output.
    backward: takes the output's gradient and the same inputs; returns the gradients of value,
    locations and weights.
    """

    def output_like(
        value: Tensor,
        heights: Sequence[int],
        widths: Sequence[int],
        locations: Tensor,
        weights: Tensor,
    ) -> Tensor:
        return value.new_empty(*weights.shape[:2], value.shape[2] * value.shape[3])

    def gradients_like(
        grad: Tensor,
        value: Tensor,
        heights: Sequence[int],
        widths: Sequence[int],
        locations: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, ...]:
        return tuple(tensor.new_empty(tensor.shape) for tensor in (value, locations, weights))

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        value, ctx.heights, ctx.widths, locations, weights = inputs
        ctx.save_for_backward(value, locations, weights)

    def gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = ctx.saved_tensors
        by_value, by_locations, by_weights = backward(
            grad, value, ctx.heights, ctx.widths, locations, weights
        )
        return by_value, None, None, by_locations, by_weights

    forward.register_fake(output_like)
    backward.register_fake(gradients_like)
    forward.register_autograd(gradients, setup_context=save)
