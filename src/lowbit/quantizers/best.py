"""Best: of several schemes of one size the one with the least squared error, chosen tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.errors import CheckpointError, ShapeError, UnsupportedError
from lowbit.kernels.op import BEST
from lowbit.quantizers.grid import Grid, QTensor
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme
from lowbit.scaling.scaling import fixed_sum


@dataclass(frozen=True, eq=False)
class BestTensor(QTensor):
    """A quantized tensor that knows which scheme it is of."""

    choice: int = 0

    def packed(self) -> dict[str, Tensor]:
        """As ``QTensor.packed``, and one byte for the choice."""
        return super().packed() | {"choice": torch.tensor([self.choice], dtype=torch.uint8)}


@dataclass(frozen=True)
class Best(Quantizer):
    """argmin over the options of sum importance * (x - deq(option(x)))**2 over the whole tensor; of equals the first.

    Written ``best(e2m1 row;e1m2f row)`` in a spec.

    Args:
        options: 2 to 256 schemes whose packed tensors have the same size.

    Raises:
        UnsupportedError: another number of options, or one that is no scheme or draws noise.
    """

    options: tuple[Scheme, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.options) <= 256:
            raise UnsupportedError(f"the best of {len(self.options)} schemes; 2 to 256 can be chosen among")
        odd = [o for o in self.options if type(o) is not Scheme or o.rounding.noisy]
        if odd:
            raise UnsupportedError(f"best() chooses among schemes without noise; {type(odd[0]).__name__} {odd[0]} is none")

    def grid(self, x: Tensor, importance: Tensor | None = None, outer: Grid | None = None) -> Grid:
        """The grid of the best option."""
        return self.quantize(x, importance).grid

    def quantize(self, x: Tensor, importance: Tensor | None = None, noise: Tensor | None = None) -> QTensor:
        """The tensor as the best option gives it."""
        k = self.choice(x, importance)
        q = self.options[k].quantize(x, importance)
        return BestTensor(q.codes, q.grid, k)

    def choice(self, x: Tensor, importance: Tensor | None = None) -> int:
        """The number of the best option. Where the error of all is NaN that is the first."""
        told = "errors are weighed by an importance"
        kernel = BEST.kernel(x, tuple(o.lowered if importance is None else told for o in self.options))
        if kernel is not None:
            return kernel.run(x, tuple(o.lowered for o in self.options))  # type: ignore[no-any-return]
        best, least = 0, torch.inf
        for k, option in enumerate(self.options):
            error = (option.quantize(x, importance).dequantize() - x.float()).square()
            total = float(fixed_sum((error if importance is None else error * importance).reshape(-1)))
            if total < least:
                best, least = k, total
        return best

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of any option, and one.

        Raises:
            ShapeError: the options differ in size for this shape.
        """
        sizes = {o.nbytes(shape) for o in self.options}
        if len(sizes) > 1:
            raise ShapeError(f"best() chooses among schemes of one size; for shape {shape} they take {sorted(sizes)} bytes")
        return sizes.pop() + 1

    def unpack(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> QTensor:
        """The inverse of ``QTensor.packed``.

        Raises:
            CheckpointError: a part is missing or does not fit, or there is no such option.
        """
        if "choice" not in parts or parts["choice"].numel() != 1 or int(parts["choice"]) >= len(self.options):
            found = parts["choice"].tolist() if "choice" in parts else "missing"
            raise CheckpointError(f"the part 'choice' is {found}; it is one number below {len(self.options)}")
        k = int(parts["choice"])
        rest = {name: part for name, part in parts.items() if name != "choice"}
        q = self.options[k].unpack(rest, shape)
        return BestTensor(q.codes, q.grid, k)
