"""Blocks: which elements share a scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.errors import ShapeError


@dataclass(frozen=True)
class Blocks:
    """Who shares a scale.

    Args:
        size: a tuple is aligned to the LAST axes (missing leading axes count 1; 0 stands for the whole
            axis); an int cuts the flattened tensor; None is the whole tensor.
        ragged: whether the last block of an axis may be shorter.

    ==================  ==========================  ==================
    size                a tensor of shape           has scales of shape
    ==================  ==========================  ==================
    ``None``            (4096, 4096)                ()
    ``(0,)``            (4096, 4096)                (4096, 1)
    ``(64,)``           (4096, 4096)                (4096, 64)
    ``(128, 128)``      (4096, 4096)                (32, 32)
    ``(32, 1)``         (8, 512, 64)                (8, 16, 64)
    ``64``              (4096, 4096)                (262144,)
    ==================  ==========================  ==================
    """

    size: tuple[int, ...] | int | None
    ragged: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.size, tuple):
            size = self.size
            if not size:
                raise ShapeError("blocks of no axis; (1,) is one element, None the whole tensor")
            while len(size) > 1 and size[0] == 1:
                size = size[1:]
            object.__setattr__(self, "size", size)
            bad = [n for n in size if n < 0]
        else:
            bad = [self.size] if isinstance(self.size, int) and self.size < 1 else []
        if bad:
            raise ShapeError(f"a block of {bad[0]} elements; sizes are at least 1 (0 in a tuple is the whole axis)")

    def axes(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The block's extent on every axis of a tensor of this shape (an int or None acts on the flat tensor).

        Raises:
            ShapeError: more block axes than tensor axes, or a block that does not divide.
        """
        if not isinstance(self.size, tuple):
            shape = (math.prod(shape),)
            size: tuple[int, ...] = (self.size or 0,)
        else:
            size = self.size
            while len(size) > len(shape) and size[0] in (0, 1):
                size = size[1:]
            if len(size) > len(shape):
                raise ShapeError(f"blocks of {'x'.join(map(str, size))} need {len(size)} axes, the tensor is {tuple(shape)}")
            size = (1,) * (len(shape) - len(size)) + size
        full = tuple(b or n for b, n in zip(size, shape, strict=True))
        for axis, (b, n) in enumerate(zip(full, shape, strict=True)):
            if not self.ragged and b and n % b:
                fits = max((d for d in range(1, b) if n % d == 0 and d & (d - 1) == 0), default=1)
                where = "the flat tensor" if not isinstance(self.size, tuple) else f"axis {axis}"
                raise ShapeError(f"{where} has {n} elements, not a multiple of the block {b}; {fits} divides it, or say 'ragged'")
        return full

    def counts(self, shape: Sequence[int]) -> tuple[int, ...]:
        """How many blocks there are on each axis: the shape of a scale tensor."""
        if self.size is None:
            return ()
        full = self.axes(shape)
        if isinstance(self.size, int):
            shape = (math.prod(shape),)
        return tuple(-(-n // b) if b else 0 for n, b in zip(shape, full, strict=True))

    def split(self, x: Tensor) -> Tensor:
        """The elements block by block: (*counts, elements). Ragged blocks are filled with zeros."""
        full = self.axes(x.shape)
        if self.size is None or not full:
            return x.reshape(-1)
        if isinstance(self.size, int):
            x = x.reshape(-1)
        if any(n % b for n, b in zip(x.shape, full, strict=True) if b):
            pad: list[int] = []
            for n, b in reversed(list(zip(x.shape, full, strict=True))):
                pad += [0, -n % b if b else 0]
            x = torch.nn.functional.pad(x, pad)
        if all(b == 1 for b in full[:-1]):
            return x.reshape(*x.shape[:-1], x.shape[-1] // full[-1] if full[-1] else 0, full[-1])
        pairs = [part for n, b in zip(x.shape, full, strict=True) for part in (n // b if b else 0, b)]
        rank = len(full)
        return x.reshape(pairs).permute(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)).flatten(rank)

    def merge(self, blocks: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of ``split``: (*counts, elements) back to ``shape``."""
        full = self.axes(shape)
        if self.size is None:
            return blocks.reshape(tuple(shape))
        flat = isinstance(self.size, int)
        target = (math.prod(shape),) if flat else tuple(shape)
        counts = blocks.shape[:-1]
        padded = tuple(c * b for c, b in zip(counts, full, strict=True))
        if not all(b == 1 for b in full[:-1]):
            rank = len(full)
            blocks = blocks.reshape(*counts, *full).permute(
                *(i for pair in zip(range(rank), range(rank, 2 * rank), strict=True) for i in pair)
            )
        x = blocks.reshape(padded)
        if padded != target:
            x = x[tuple(slice(0, n) for n in target)]
        return x.reshape(tuple(shape))

    def expand(self, per_block: Tensor, shape: Sequence[int]) -> Tensor:
        """One value a block to one value an element: (*counts) to ``shape``."""
        if self.size is None:
            return per_block.reshape(()).expand(tuple(shape))
        elements = math.prod(self.axes(shape))
        return self.merge(per_block.unsqueeze(-1).expand(*per_block.shape, elements), shape)

    def __str__(self) -> str:
        match self.size:
            case None:
                text = "tensor"
            case int():
                text = f"flat{self.size}"
            case (0,):
                text = "row"
            case (n,):
                text = f"g{n}"
            case _:
                text = "x".join(map(str, self.size))
        return text + " ragged" * self.ragged
