"""Convolution on packed weights, quantized as the matrix (out, in / groups * kernel)."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from lowbit.nn.linear import Route
from lowbit.nn.packed import PackedWeight


class Convolution(nn.Module):
    """A 1-, 2- or 3-d convolution on packed weights: everything but the weight comes from the torch layer it replaces.

    Arithmetic is float32, the result is rounded once to the dtype of x.

    Args:
        weight: (out, in / groups * kernel elements), packed.
        layer: the torch convolution; it is left as it is, a copy without its weight is kept.
    """

    def __init__(self, weight: PackedWeight, layer: nn.Conv1d | nn.Conv2d | nn.Conv3d):
        super().__init__()
        self.weight = weight
        self.kernel = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
        self.layer = copy.copy(layer)
        self.layer._parameters = {"weight": None, "bias": None}
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)

    def route(self) -> Route:
        """What multiplies here: torch, with the dense weight."""
        return Route("torch", "qlinear: a convolution takes each weight to many places, where decoding it is little of the work")

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, in, *space) to (batch, out, *space)."""
        W = self.weight.dense().reshape(self.kernel)
        y = self.layer._conv_forward(x.float(), W, None if self.bias is None else self.bias.float())  # type: ignore[arg-type]
        return y.to(x.dtype)
