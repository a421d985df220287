"""Convolution on packed weights, quantized as the matrix (out, in / groups * kernel)."""

from __future__ import annotations

from torch import Tensor, nn

from lowbit.nn.packed import PackedWeight


class Convolution(nn.Module):
    """A 1-, 2- or 3-d convolution on packed weights: everything but the weight comes from the torch layer it replaces.

    Args:
        weight: (out, in / groups * kernel elements), packed.
        layer: the torch convolution; its own weight is dropped.
    """

    def __init__(self, weight: PackedWeight, layer: nn.Conv1d | nn.Conv2d | nn.Conv3d):
        super().__init__()
        self.weight = weight
        self.kernel = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
        self.layer = layer
        self.bias = layer.bias
        layer.weight = None  # type: ignore[assignment]
        layer.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, in, *space) to (batch, out, *space)."""
        W = self.weight.dense().reshape(self.kernel).to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return self.layer._conv_forward(x, W, bias)  # type: ignore[arg-type]
