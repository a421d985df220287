"""Convolution on packed weights, quantized as the matrix (out, in / groups * kernel)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowbit.kernels.cpu import gather
from lowbit.kernels.cpu.linear_layout import TILE_ROWS, PackedLinear, parts_of
from lowbit.kernels.op import QLINEAR, forced
from lowbit.nn.linear import Route
from lowbit.nn.packed import PackedWeight

#: elements of patches that are laid out at a time
ROOM = 1 << 22

#: places an output up to which the packed weight is multiplied: laying out their patches takes longer than decoding the weight beyond
FEW_PLACES = 1


class Convolution(nn.Module):
    """A 1-, 2- or 3-d convolution on packed weights: everything but the weight comes from the torch layer it replaces.

    Where a kernel reads the weight and there are few places, their patches become rows that it multiplies, group by group; with more
    places the weight is decoded in each call, which is little of the work then, and torch multiplies. Arithmetic is float32, the result
    is rounded once to the dtype of x.

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
        rows = layer.out_channels // layer.groups
        if layer.groups > 1 and rows % TILE_ROWS:
            weight.unserved = f"its groups have {rows} output{'s' * (rows > 1)}, the kernel takes {TILE_ROWS} at a time"

    def layouts(self) -> tuple[PackedLinear, ...] | str:
        """The weight of each group as the linear kernel reads it, or why there is none."""
        layout = self.weight.layout()
        if not isinstance(layout, PackedLinear | str):
            return "patches are multiplied on the CPU only"
        return layout if isinstance(layout, str) else parts_of(layout, self.layer.groups)

    def route(self) -> Route:
        """What multiplies here without gradients: the kernel of linear layers on unfolded patches, or torch with the dense weight."""
        layouts, x = self.layouts(), torch.zeros(1, math.prod(self.kernel[1:]))
        with torch.no_grad():
            kernel, refusals = QLINEAR.plan(x, layouts if isinstance(layouts, str) else layouts[0], self.bias)
        if kernel is None:
            return Route("torch", "; ".join(f"qlinear: {r}" for r in refusals.values()))
        return Route("qlinear on patches", f"torch on the weight decoded anew with more than {self.most_places} places")

    @property
    def most_places(self) -> int:
        """So many places of all samples together are multiplied with the packed weight."""
        return FEW_PLACES * self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, in, *space) to (batch, out, *space), with or without the batch."""
        if x.ndim == len(self.layer.kernel_size) + 1:
            return self.forward(x.unsqueeze(0))[0]
        numbers, bias, layouts = x.float(), None if self.bias is None else self.bias.float(), self.layouts()
        kernel = QLINEAR.kernel(numbers, layouts if isinstance(layouts, str) else layouts[0], bias)
        if kernel is None or isinstance(layouts, str):
            return self.layer._conv_forward(numbers, self.weight.dense().reshape(self.kernel), bias).to(x.dtype)  # type: ignore[arg-type]
        patches = self._patches(numbers)
        batch, *places = patches.shape[: x.ndim - 1]
        if batch * math.prod(places) > self.most_places and forced() is None:
            W = gather.run(torch.arange(self.weight.shape[0]), self.weight.layout())  # type: ignore[arg-type]
            return self.layer._conv_forward(numbers, W.reshape(self.kernel), bias).to(x.dtype)  # type: ignore[arg-type]
        y = torch.empty(batch, self.weight.shape[0], *places)
        biases = [None] * len(layouts) if bias is None else bias.chunk(len(layouts))
        for samples, first in _pieces(batch, places[0], patches[:1, :1].numel()):
            rows = patches[samples, first]
            grouped = rows.reshape(*rows.shape[: x.ndim - 1], len(layouts), -1)
            for g, (layout, b) in enumerate(zip(layouts, biases, strict=True)):
                out = kernel.run(grouped[..., g, :], layout, b)
                y[samples, g * layout.rows : (g + 1) * layout.rows, first] = out.movedim(-1, 1)
        return y.to(x.dtype)

    def _patches(self, x: Tensor) -> Tensor:
        """(batch, in, *space) to (batch, *places, in, *kernel), not yet copied."""
        layer = self.layer
        if any(layer._reversed_padding_repeated_twice):
            x = functional.pad(
                x, layer._reversed_padding_repeated_twice, "constant" if layer.padding_mode == "zeros" else layer.padding_mode
            )
        for axis, (size, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), 2):
            x = x.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
        return x.movedim(1, len(layer.kernel_size) + 1)


def _pieces(batch: int, first: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Samples and places along the first axis of space whose patches, ``size`` elements each, go together."""
    if first * size <= ROOM:
        step = ROOM // max(1, first * size)
        yield from ((slice(b, b + step), slice(None)) for b in range(0, batch, step))
        return
    step = max(1, ROOM // size)
    yield from ((slice(b, b + 1), slice(h, h + step)) for b in range(batch) for h in range(0, first, step))
