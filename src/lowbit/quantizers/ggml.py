"""The block types of GGUF files: Q4_0 to Q8_0, the K-quants, IQ4_NL, TQ1_0, TQ2_0 and MXFP4, with ggml's own bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.errors import CheckpointError
from lowbit.formats.ggml import e2m1, iq4_nl, minima, offset_integers, two_bits
from lowbit.formats.integer import INTEGERS
from lowbit.formats.minifloat import float8_e8m0fnu, float16
from lowbit.formats.table import TableFormat
from lowbit.formats.ternary import ternary
from lowbit.kernels.grid_spec import GridSpec
from lowbit.packing import pack
from lowbit.quantizers.ggml_bytes import LAYOUTS, join, split
from lowbit.quantizers.grid import Grid, QTensor
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.rounding.ieee754 import nearest_away
from lowbit.rounding.nearest_zero import nearest_zero
from lowbit.scaling.absmax import absmax
from lowbit.scaling.ggml import Largest, LeastSquares, LeastSquaresOffset, SignedLargest, Spread
from lowbit.scaling.power_of_two import floor
from lowbit.scaling.scaling import Scaling

GGML = Source(
    "ggml: tensor library for machine learning",
    "Gerganov, Kawrakow and contributors",
    2023,
    "https://github.com/ggml-org/ggml",
    parts="ggml-quants.c: block layouts and the encoders of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, TQ1_0, TQ2_0, MXFP4",
    departs="Scales beyond float16 saturate. A block with a NaN or an Inf has a NaN scale. The K-quants and IQ4_NL keep the best of "
    "several least-squares fits as stored, not ggml's own loops. The scale code 255 of MXFP4 is NaN, as in OCP's text.",
)


@dataclass(frozen=True)
class GGMLBlocks(Quantizer):
    """A block type of ggml.

    Args:
        name: ggml's name in small letters.
        scheme: what the numbers are and how scales nest.
        shift: ggml's encoder takes trunc((x - min) / d + shift) with float32 steps; None leaves codes to the scheme.
    """

    name: str
    scheme: Scheme
    shift: float | None = None

    @cached_property
    def lowered(self) -> GridSpec | str:
        """What kernels are told, or why they cannot be told."""
        if self.shift is not None:
            return f"{self.name} takes the integer part of (x - min) / d + {self.shift:g}, with d and min before they are stored"
        return self.scheme.lowered

    def grid(self, x: Tensor, importance: Tensor | None = None, outer: Grid | None = None) -> Grid:
        """That of the scheme; scales are the stored ones.

        Raises:
            ShapeError: the last axis is not a multiple of ggml's block.
        """
        Blocks((LAYOUTS[self.name].elements,)).axes(x.shape)
        return self.scheme.grid(x, importance, outer)

    def quantize(self, x: Tensor, importance: Tensor | None = None, noise: Tensor | None = None) -> QTensor:
        """The codes of x, as ggml finds them where it has a rule without a search."""
        x = x.float()
        grid = self.grid(x, importance)
        if self.shift is None:
            codes = grid.choose(x, self.scheme.rounding).codes
            return GGMLTensor(codes, grid, self.name)
        blocks = self.scheme.blocks.split(x)
        assert self.scheme.scaling is not None
        found = self.scheme.scaling(blocks, self.scheme.format)
        assert not isinstance(found, list) and found.inverse is not None
        if found.offset is not None:
            blocks = blocks - found.offset.unsqueeze(-1)
        y = torch.trunc(blocks * found.inverse.unsqueeze(-1) + self.shift)
        codes = y.nan_to_num(0.0, 0.0, 0.0).clamp(0, (1 << self.scheme.format.bits) - 1).to(torch.uint8)
        return GGMLTensor(self.scheme.blocks.merge(codes, tuple(x.shape)), grid, self.name)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """That of the file: 144 bytes for 256 numbers of Q4_K."""
        count, size = torch.Size(shape).numel(), LAYOUTS[self.name]
        Blocks((size.elements,)).axes(shape)
        return count // size.elements * size.nbytes

    def unpack(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> QTensor:
        """The inverse of ``QTensor.packed``: one part, ``blocks``, with the bytes of a GGUF file.

        Raises:
            CheckpointError: the part is missing or has another size.
        """
        if "blocks" not in parts:
            raise CheckpointError(f"the part 'blocks' is missing; there are {sorted(parts)}")
        return self.read(parts["blocks"], shape)

    def read(self, data: Tensor, shape: tuple[int, ...]) -> QTensor:
        """The tensor of a file's bytes.

        Shapes:
            data    uint8, ``nbytes(shape)`` of them in any shape

        Raises:
            CheckpointError: another number of bytes.
        """
        if data.dtype != torch.uint8 or data.numel() != self.nbytes(shape):
            wanted = self.nbytes(shape)
            raise CheckpointError(f"{self.name} of shape {tuple(shape)} takes {wanted} bytes (uint8), got {data.numel()} of {data.dtype}")
        fields = split(self.name, data)
        parts = {"codes": pack(fields["codes"], self.scheme.format.bits)}
        for name, inner, outer in (("scale", "sc", "d"), ("offset", "mn", "m")):
            nested = f"{name}.scale.codes" if inner in fields else f"{name}.codes"
            if outer in fields:
                parts[nested] = pack(fields[outer], 8 if self.name == "mxfp4" else 16)
            if inner in fields:
                stored = self.scheme.scale_quantizer if name == "scale" else self.scheme.offset_quantizer
                assert isinstance(stored, Scheme)
                parts[f"{name}.codes"] = pack(fields[inner], stored.format.bits)
        q = self.scheme.unpack(parts, shape)
        return GGMLTensor(q.codes, q.grid, self.name)


@dataclass(frozen=True, eq=False)
class GGMLTensor(QTensor):
    """A quantized tensor whose packed form is the bytes of a GGUF file."""

    kind: str = "q4_0"

    def packed(self) -> dict[str, Tensor]:
        """One part, ``blocks``: uint8 of shape (*rows, bytes of a row)."""
        fields = {"codes": self.codes}
        for value, inner, outer in ((self.grid.scale, "sc", "d"), (self.grid.offset, "mn", "m")):
            if isinstance(value, QTensor) and isinstance(value.grid.scale, QTensor):
                fields |= {inner: value.codes, outer: value.grid.scale.codes}
            elif isinstance(value, QTensor):
                fields[outer] = value.codes
        layout = LAYOUTS[self.kind]
        row = self.codes.shape[-1] // layout.elements * layout.nbytes
        return {"blocks": join(self.kind, fields).reshape(*self.codes.shape[:-1], row)}


def _plain(name: str, element: TableFormat, rule: Scaling, shift: float | None = None, offset: bool = False) -> GGMLBlocks:
    half = cast(float16)
    size = LAYOUTS[name].elements
    scheme = Scheme(element, Blocks((size,)), rule, nearest_away, scale_quantizer=half, offset_quantizer=half if offset else None)
    return GGMLBlocks(name, scheme, shift)


def _nested(name: str, element: TableFormat, size: int, scales: TableFormat, least: TableFormat | None = None) -> GGMLBlocks:
    """Blocks of ``size`` whose scales (and minima) are codes under one float16 number for 256 numbers."""
    around = Blocks((256 // size,))
    scale, offset = (None if f is None else Scheme(f, around, absmax, scale_quantizer=cast(float16)) for f in (scales, least))
    rule = LeastSquares() if least is None else LeastSquaresOffset()
    return GGMLBlocks(name, Scheme(element, Blocks((size,)), rule, scale_quantizer=scale, offset_quantizer=offset))


_mx = Scheme(e2m1, Blocks((32,)), floor, nearest_zero, scale_quantizer=cast(float8_e8m0fnu))

TYPES = {
    kind.name: register("quantizer", f"ggml_{kind.name}", GGML, aliases=() if kind.name == "mxfp4" else (kind.name,))(kind)
    for kind in (
        _plain("q4_0", offset_integers(4), SignedLargest(), 8.5),
        _plain("q4_1", INTEGERS["uint4"], Spread(), 0.5, offset=True),
        _plain("q5_0", offset_integers(5), SignedLargest(), 16.5),
        _plain("q5_1", INTEGERS["uint5"], Spread(), 0.5, offset=True),
        _plain("q8_0", INTEGERS["int8"], Largest()),
        _plain("tq1_0", ternary, Largest()),
        _plain("tq2_0", two_bits, Largest()),
        _plain("iq4_nl", iq4_nl, LeastSquares()),
        _nested("q2_k", INTEGERS["uint2"], 16, INTEGERS["uint4"], minima(4)),
        _nested("q3_k", offset_integers(3), 16, offset_integers(6)),
        _nested("q4_k", INTEGERS["uint4"], 32, INTEGERS["uint6"], minima(6)),
        _nested("q5_k", INTEGERS["uint5"], 32, INTEGERS["uint6"], minima(6)),
        _nested("q6_k", offset_integers(6), 16, INTEGERS["int8"]),
        GGMLBlocks("mxfp4", _mx),
    )
}
