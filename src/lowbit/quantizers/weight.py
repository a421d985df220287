"""Weight: what a layer holds, a sum of terms: quantized tensors, low-rank products, single rows or columns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.errors import ShapeError
from lowbit.quantizers.grid import QTensor, dense


@dataclass(frozen=True, eq=False)
class LowRank:
    """left @ right, computed in float32.

    Shapes:
        left    (out, rank)
        right   (rank, in)
    """

    left: Tensor | QTensor
    right: Tensor | QTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.left.shape[0], self.right.shape[1])

    def dequantize(self) -> Tensor:
        """The product, (out, in) float32."""
        return dense(self.left).float() @ dense(self.right).float()

    def packed(self) -> dict[str, Tensor]:
        """Both factors, packed where they are quantized."""
        return {**_packed("left", self.left), **_packed("right", self.right)}


@dataclass(frozen=True, eq=False)
class Indexed:
    """Some rows (axis 0) or columns (axis 1) of a matrix that is zero elsewhere: outliers kept apart.

    Shapes:
        index   (k,) int64, distinct
        values  (k, in) or (out, k)
    """

    index: Tensor
    values: Tensor | QTensor
    axis: int
    shape: tuple[int, ...]

    def dequantize(self) -> Tensor:
        """The matrix, float32."""
        values = dense(self.values).float()
        return torch.zeros(self.shape, dtype=torch.float32, device=values.device).index_copy(self.axis, self.index, values)

    def packed(self) -> dict[str, Tensor]:
        """The index as int32 and the values."""
        return {"index": self.index.to(torch.int32), **_packed("values", self.values)}


Term = QTensor | LowRank | Indexed


@dataclass(frozen=True, eq=False)
class Weight:
    """A sum of terms of one shape, added in float32 in this order.

    Raises:
        ShapeError: no term, or terms of different shapes.
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        shapes = {tuple(t.shape) for t in self.terms}
        if len(shapes) != 1:
            raise ShapeError(f"the terms of a weight have one shape, got {sorted(shapes) or 'no term'}")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.terms[0].shape)

    def dequantize(self) -> Tensor:
        """The sum, float32."""
        total = self.terms[0].dequantize()
        for term in self.terms[1:]:
            total = total + term.dequantize()
        return total

    def packed(self) -> dict[str, Tensor]:
        """The parts of every term; from the second term on the names start with the term's number."""
        parts = dict(self.terms[0].packed())
        for i, term in enumerate(self.terms[1:], 1):
            parts |= {f"{i}.{k}": v for k, v in term.packed().items()}
        return parts

    @property
    def nbytes(self) -> int:
        """Bytes of all packed parts."""
        return sum(p.numel() * p.element_size() for p in self.packed().values())


def _packed(name: str, values: Tensor | QTensor) -> dict[str, Tensor]:
    if isinstance(values, QTensor):
        return {f"{name}.{k}": v for k, v in values.packed().items()}
    return {name: values.contiguous()}
