"""Scheme: the ordinary quantizer, a format with blocks, a scaling, a rounding, and quantizers for its own scales."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.errors import CheckpointError, UnsupportedError
from lowbit.formats.format import Format, Overflow
from lowbit.kernels.grid_spec import GridSpec, Scales, Units
from lowbit.kernels.op import QUANTIZE, SCALES
from lowbit.packing import packed_nbytes, unpack
from lowbit.quantizers.grid import Grid, QTensor, table_bits, unpack_codes, unpack_plain
from lowbit.quantizers.lowering import lowered
from lowbit.quantizers.quantizer import Quantizer
from lowbit.rounding.ieee754 import nearest_even
from lowbit.rounding.rounding import Rounding
from lowbit.scaling.scaling import Affine, Scaling, fixed_sum


@dataclass(frozen=True)
class Scheme(Quantizer):
    """How a tensor is stored: which numbers, who shares a scale, how the scale is found and itself stored.

    Args:
        format: the element format.
        blocks: who shares a scale.
        scaling: the rule for the scale; None is a plain cast without any scale.
        rounding, overflow: how numbers between and beyond those of the format are taken.
        scale_quantizer: how scales are stored; None keeps them in float32 (4 bytes each, counted).
        offset_quantizer: the same for offsets.
        center: blocks whose mean is subtracted first and stored (NF4's nested scales).
    """

    format: Format
    blocks: Blocks = Blocks(None)
    scaling: Scaling | None = None
    rounding: Rounding = nearest_even
    overflow: Overflow = "saturate"
    scale_quantizer: Quantizer | None = None
    offset_quantizer: Quantizer | None = None
    center: Blocks | None = None

    @cached_property
    def lowered(self) -> GridSpec | str:
        """What kernels are told about this scheme, or why they cannot be told."""
        if type(self) is not Scheme:
            return f"{type(self).__name__} may do otherwise than Scheme"
        return lowered(self)

    def grid(self, x: Tensor, importance: Tensor | None = None, outer: Grid | None = None) -> Grid:
        """The grid of x; of several candidates each block keeps the one with the least (weighted) squared error as stored.

        Raises:
            ShapeError: the blocks do not divide the tensor.
        """
        x = x if x.dtype == torch.float64 else x.float()
        shape = tuple(x.shape)
        bare = self._bare(shape)
        if self.scaling is None:
            return bare
        told = self._told(importance, outer)
        kernel = SCALES.kernel(x, told) if isinstance(told, GridSpec) else None
        if kernel is not None:
            return self._grid(kernel.run(x, told), bare, outer)
        grids = self.grids(x, importance, outer)
        weights = None if importance is None else self.blocks.split(importance.expand(shape).float())
        return grids[0] if len(grids) == 1 else self._best(grids, x, weights)

    def _bare(self, shape: tuple[int, ...]) -> Grid:
        self.blocks.axes(shape)
        return Grid(self.format, self.blocks, shape, overflow=self.overflow)

    def grids(self, x: Tensor, importance: Tensor | None = None, outer: Grid | None = None) -> list[Grid]:
        """The grid of every candidate that the rule offers, one where it offers no choice.

        Raises:
            ShapeError: the blocks do not divide the tensor.
        """
        shape = tuple(x.shape)
        bare = self._bare(shape)
        if self.scaling is None:
            return [bare]
        base, mean = x, None
        if self.center is not None:
            means = _block_means(self.center, x)
            mean = means if self.offset_quantizer is None else self.offset_quantizer.quantize(means)
            base = x - self.center.expand(mean.dequantize() if isinstance(mean, QTensor) else mean, shape)
        blocks = self.blocks.split(base).float()
        weights = None if importance is None else self.blocks.split(importance.expand(shape).float())
        found = self.scaling(blocks, self.format, weights)
        candidates = found if isinstance(found, list) else [found]
        grids = self._store(candidates, bare, outer)
        return grids if mean is None else [replace(g, offset=mean, offset_blocks=self.center) for g in grids]

    def _told(self, importance: Tensor | None, outer: Grid | None = None) -> GridSpec | str:
        """What kernels are told: candidates are compared by plain errors and with scales that are stored afresh."""
        spec = self.lowered
        if isinstance(spec, GridSpec) and spec.candidates and (importance is not None or outer is not None):
            return "errors of candidates are weighed" if outer is None else "candidates are compared under scales that are frozen"
        return spec

    def _grid(self, found: Scales, bare: Grid, outer: Grid | None) -> Grid:
        """The grid of what a kernel found; of candidates it gives the largest magnitudes and which were chosen."""
        if found.chosen is None and found.low is None:
            return self._store([Affine(found.scale, zero=found.zero, negative=found.negative)], bare, outer)[0]
        assert self.scaling is not None
        if found.low is not None:
            affine = self.scaling(torch.stack((found.low, found.scale), -1), self.format)
            assert isinstance(affine, Affine)
            return self._store([affine], bare, outer)[0]
        ways = self.scaling(found.scale.unsqueeze(-1), self.format)
        assert isinstance(ways, list)
        assert found.chosen is not None
        return mixed(self._store(ways, bare, outer), found.chosen)

    def units(self, low: Tensor, high: Tensor) -> Units:
        """What moves the numbers of blocks with these extremes; NaN for high where a number is not finite."""
        found = self._grid(Scales(high, low=low), Grid(self.format, Blocks((1,)), tuple(high.shape)), None).units()
        assert isinstance(found, Units)
        return found

    def _store(self, candidates: list[Affine], bare: Grid, outer: Grid | None) -> list[Grid]:
        """Candidates with their scales as they will be stored; all share the outer levels, fitted to the largest candidate."""

        def store(values: list[Tensor], quantizer: Quantizer | None, frozen: Grid | None) -> list[Tensor | QTensor]:
            if quantizer is None:
                return list(values)
            level = frozen if frozen is not None else quantizer.grid(values[0] if len(values) == 1 else torch.stack(values).amax(0))
            return [level.choose(v, getattr(quantizer, "rounding", nearest_even)) for v in values]

        count = len(candidates)
        first = candidates[0]
        frozen = None if outer is None else outer.reshaped(tuple(first.scale.shape))
        positive = [c.scale for c in candidates]
        negative = [c.negative for c in candidates if c.negative is not None]
        both = store(positive + negative, self.scale_quantizer, frozen)
        offsets: list[Tensor | QTensor | None] = [None] * count
        if first.offset is not None:
            offsets = [*store([c.offset for c in candidates if c.offset is not None], self.offset_quantizer, None)]
        return [
            replace(
                bare, scale=both[i], negative=both[count + i] if negative else None, offset=offsets[i], zero=c.zero, table=c.table,
                inverse=c.inverse,
            )
            for i, c in enumerate(candidates)
        ]  # fmt: skip

    def _best(self, grids: list[Grid], x: Tensor, weights: Tensor | None) -> Grid:
        least: Tensor | None = None
        chosen = None
        for k, grid in enumerate(grids):
            error = (self.blocks.split(grid.choose(x, nearest_even).dequantize() - x)).float().square()
            total = fixed_sum(error if weights is None else error * weights)
            if least is None or chosen is None:
                least, chosen = total, torch.zeros(total.shape, dtype=torch.int64, device=x.device)
            else:
                better = total < least
                least, chosen = torch.where(better, total, least), chosen.masked_fill(better, k)
        assert chosen is not None
        return mixed(grids, chosen)

    def quantize(self, x: Tensor, importance: Tensor | None = None, noise: Tensor | None = None) -> QTensor:
        """The codes of x on its grid."""
        if self.rounding.noisy and noise is None:
            raise UnsupportedError(f"{self.rounding.name} rounding needs noise; pass noise=lowbit.philox.noise(Key(seed), x.shape)")
        told = self._told(importance)
        kernel = QUANTIZE.kernel(x, told, noise)
        if kernel is None:
            return self.grid(x, importance).choose(x, self.rounding, noise)
        codes, found = kernel.run(x, told, noise)
        grid = Grid(self.format, self.blocks, tuple(x.shape), overflow=self.overflow)
        return QTensor(codes, grid if found is None else self._grid(found, grid, None))

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a packed tensor of this shape: codes, scales of every level, zeros, offsets, table numbers."""
        counts = self.blocks.counts(shape)
        elements, blocks = math.prod(shape), math.prod(counts)
        total = packed_nbytes(elements, self.format.bits)
        if self.scaling is None:
            return total
        sample = self._sample()
        stored = [s for s in (sample.scale, sample.negative) if s is not None]
        total += len(stored) * (4 * blocks if self.scale_quantizer is None else self.scale_quantizer.nbytes(counts))
        if sample.zero is not None:
            total += packed_nbytes(blocks, self.format.bits)
        if sample.table is not None:
            total += packed_nbytes(blocks, table_bits(self.format))
        offset_counts = self.center.counts(shape) if self.center is not None else counts if sample.offset is not None else None
        if offset_counts is not None:
            total += 4 * math.prod(offset_counts) if self.offset_quantizer is None else self.offset_quantizer.nbytes(offset_counts)
        return total

    def _sample(self) -> Affine:
        """Which parts the scaling produces, seen on one small block."""
        assert self.scaling is not None
        found = self.scaling(torch.tensor([[-1.0, 0.5, 1.0, 2.0]]), self.format, None)
        return found[0] if isinstance(found, list) else found

    def unpack(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> QTensor:
        """The quantized tensor from the parts that ``QTensor.packed`` gave.

        Raises:
            CheckpointError: a part is missing or does not fit the shape.
        """
        counts = self.blocks.counts(shape)
        grid = Grid(self.format, self.blocks, tuple(shape), overflow=self.overflow)
        if self.scaling is not None:
            sample = self._sample()
            grid = replace(grid, scale=_stored(parts, "scale", self.scale_quantizer, counts))
            if sample.negative is not None:
                grid = replace(grid, negative=_stored(parts, "negative", self.scale_quantizer, counts))
            if sample.zero is not None:
                grid = replace(grid, zero=self.format.decode(unpack_codes(parts, "zero", self.format, counts)))
            if sample.table is not None:
                if "table" not in parts:
                    raise CheckpointError(f"the part 'table' is missing; there are {sorted(parts)}")
                table = unpack(parts["table"], table_bits(self.format), math.prod(counts)).reshape(counts).long()
                grid = replace(grid, table=table.clamp(max=len(getattr(self.format, "alternatives", ()))))
            if sample.offset is not None or self.center is not None:
                offset_counts = counts if self.center is None else self.center.counts(shape)
                grid = replace(grid, offset=_stored(parts, "offset", self.offset_quantizer, offset_counts), offset_blocks=self.center)
        if "order" in parts:
            order = parts["order"].long()
            if not torch.equal(order.sort().values, torch.arange(shape[-1])):
                raise CheckpointError(f"the part 'order' is not a permutation of {shape[-1]} columns")
            grid = replace(grid, order=order)
        return QTensor(unpack_codes(parts, "codes", self.format, tuple(shape)), grid)


def cast(fmt: Format, overflow: Overflow = "saturate", rounding: Rounding = nearest_even) -> Scheme:
    """A plain cast to a format, without a scale."""
    return Scheme(fmt, overflow=overflow, rounding=rounding)


def _stored(parts: Mapping[str, Tensor], name: str, quantizer: Quantizer | None, counts: tuple[int, ...]) -> Tensor | QTensor:
    if quantizer is None:
        return unpack_plain(parts, name, counts)
    inner = {k.removeprefix(f"{name}."): v for k, v in parts.items() if k.startswith(f"{name}.")}
    if not inner:
        raise CheckpointError(f"the parts '{name}.*' are missing; there are {sorted(parts)}")
    return quantizer.unpack(inner, counts)


def _block_means(blocks: Blocks, x: Tensor) -> Tensor:
    """The mean of every block, in float64 and rounded once; ragged blocks count their own elements, empty ones have mean 0."""
    count = fixed_sum(blocks.split(torch.ones(x.shape, dtype=torch.float32, device=x.device)))
    return (fixed_sum(blocks.split(x)) / count.clamp(min=1)).float()


def mixed(grids: list[Grid], chosen: Tensor) -> Grid:
    """Block by block the parts of the chosen grid; nested levels are shared, so mixing their codes is exact."""

    def pick(values: list[Tensor | QTensor | None]) -> Tensor | QTensor | None:
        first = values[0]
        if first is None:
            return None
        plain = [v.codes if isinstance(v, QTensor) else v for v in values]
        mixed = torch.stack([p for p in plain if p is not None]).gather(0, chosen.unsqueeze(0)).squeeze(0)
        return replace(first, codes=mixed) if isinstance(first, QTensor) else mixed

    names = ["scale", "negative", "zero", "table", "inverse"] + (["offset"] if grids[0].offset_blocks is None else [])
    mixed: dict[str, Any] = {name: pick([getattr(g, name) for g in grids]) for name in names}
    return replace(grids[0], **mixed)
