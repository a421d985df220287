"""Weight: what a layer holds, a sum of terms: quantized tensors, low-rank products, single rows or columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.errors import CheckpointError, ShapeError
from lowbit.quantizers.grid import QTensor, dense
from lowbit.quantizers.quantizer import Quantizer


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

    Args:
        terms: what is added.
        quantizers: for each term the quantizer whose ``unpack`` reads it back, None for terms of plain tensors.

    Raises:
        ShapeError: no term, or terms of different shapes.
    """

    terms: tuple[Term, ...]
    quantizers: tuple[Quantizer | None, ...] = ()

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


def unpack(kinds: Sequence[str], quantizers: Sequence[Quantizer | None], parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Weight:
    """The weight from its packed parts.

    Args:
        kinds: of each term ``quantized``, ``low rank``, ``rows`` or ``columns`` (see ``kind``).
        quantizers: of each term, None for plain ones.

    Raises:
        CheckpointError: a part is missing or does not fit.
    """
    terms: list[Term] = []
    for i, (what, quantizer) in enumerate(zip(kinds, quantizers, strict=True)):
        own = {k.removeprefix(f"{i}."): v for k, v in parts.items() if (k.startswith(f"{i}.") if i else not k[0].isdigit())}
        if what == "quantized" and quantizer is not None:
            terms.append(quantizer.unpack(own, shape))
        elif what == "low rank" and {"left", "right"} <= own.keys():
            terms.append(LowRank(own["left"], own["right"]))
        elif what in ("rows", "columns") and {"index", "values"} <= own.keys():
            index, axis = own["index"].long(), int(what == "columns")
            if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < shape[axis]:
                raise CheckpointError(f"{what} {int(index.min())}..{int(index.max())} of a matrix of shape {shape}")
            terms.append(Indexed(index, own["values"], axis, shape))
        else:
            raise CheckpointError(f"term {i} is {what!r} and its parts are {sorted(own)}; this version cannot read that")
    return Weight(tuple(terms), tuple(quantizers))


def kind(term: Term) -> str:
    """What a term is called in a checkpoint."""
    match term:
        case QTensor():
            return "quantized"
        case LowRank():
            return "low rank"
        case _:
            return "columns" if term.axis else "rows"


def _packed(name: str, values: Tensor | QTensor) -> dict[str, Tensor]:
    if isinstance(values, QTensor):
        return {f"{name}.{k}": v for k, v in values.packed().items()}
    return {name: values.contiguous()}
