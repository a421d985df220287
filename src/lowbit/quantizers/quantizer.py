"""The central contract: a quantizer makes a grid for a tensor, and the grid takes the tensor's codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lowbit.quantizers.grid import Grid, QTensor


@runtime_checkable
class Quantizer(Protocol):
    """A frozen value that says how a tensor is stored in few bits; ``Scheme`` is the ordinary one."""

    def grid(self, x: Tensor, importance: Tensor | None = None, outer: Grid | None = None) -> Grid:
        """What each element may be.

        Args:
            importance: non-negative weights of the elements' squared errors, broadcastable to x.
            outer: the grid of the scales of an earlier fit; the scales are stored in it instead of a new one.
        """

    def quantize(self, x: Tensor, importance: Tensor | None = None, noise: Tensor | None = None) -> QTensor:
        """The codes of x on its grid. ``noise`` holds one 32-bit word an element, for roundings that need it."""

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a packed tensor of this shape, scales of every level included."""

    def unpack(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> QTensor:
        """The inverse of ``QTensor.packed``.

        Raises:
            CheckpointError: a part is missing or has the wrong size.
        """


def bits_per_element(quantizer: Quantizer, shape: tuple[int, ...]) -> float:
    """True bits an element of a packed tensor of this shape, scales included."""
    return 8 * quantizer.nbytes(shape) / max(1, torch.Size(shape).numel())
