"""Weight: what a layer holds, a sum of terms: quantized tensors, low-rank products, single rows or columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lowbit.errors import CheckpointError, ShapeError, UnsupportedError
from lowbit.packing import unpack as unpack_bits
from lowbit.quantizers.grid import QTensor, dense, packed_codes
from lowbit.quantizers.quantizer import Quantizer


@dataclass(frozen=True, eq=False)
class LowRank:
    """left @ right, computed in float32; with ``sign``, its numbers with their signs changed where that is 0.

    Shapes:
        left    (out, rank)
        right   (rank, in)
        sign    (out, in) uint8 or None: 1 keeps a number, 0 changes its sign

    Args:
        quantizers: of the factors that are quantized, so that they can be read back.
    """

    left: Tensor | QTensor
    right: Tensor | QTensor
    sign: Tensor | None = None
    quantizers: tuple[Quantizer | None, Quantizer | None] = (None, None)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.left.shape[0], self.right.shape[1])

    def dequantize(self) -> Tensor:
        """The matrix, (out, in) float32."""
        product = dense(self.left).float() @ dense(self.right).float()
        return product if self.sign is None else torch.where(self.sign > 0, product, -product)

    def packed(self) -> dict[str, Tensor]:
        """Both factors, packed where they are quantized (then ``rank`` says how they are cut), and a bit for each sign."""
        parts = {**_packed("left", self.left), **_packed("right", self.right)}
        if isinstance(self.left, QTensor) or isinstance(self.right, QTensor):
            parts["rank"] = torch.tensor([self.left.shape[1]], dtype=torch.int32)
        if self.sign is not None:
            parts["sign"] = packed_codes(self.sign, 1)
        return parts


@dataclass(frozen=True, eq=False)
class Indexed:
    """Some rows (axis 0) or columns (axis 1) of a matrix that is zero elsewhere: outliers kept apart.

    Shapes:
        index   (k,) int64, distinct
        values  (k, in) or (out, k)

    Args:
        quantizer: of values that are quantized, so that they can be read back.
    """

    index: Tensor
    values: Tensor | QTensor
    axis: int
    shape: tuple[int, ...]
    quantizer: Quantizer | None = None

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
        quantizers: for each term that is a ``QTensor`` the quantizer whose ``unpack`` reads it back; None for the others.

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


class Form(NamedTuple):
    """How a term is stored, which its packed parts alone do not say.

    Args:
        kind: ``quantized``, ``low rank``, ``signed low rank``, ``rows`` or ``columns``.
        quantizers: of what is quantized: ``spec`` is the whole term; ``left``, ``right`` and ``values`` are parts of it.
    """

    kind: str
    quantizers: Mapping[str, Quantizer] = {}


def forms(weight: Weight) -> list[Form]:
    """The form of each term.

    Raises:
        UnsupportedError: something is quantized by a quantizer that is not known, so nobody could read it back.
    """
    found = []
    for term, own in zip(weight.terms, weight.quantizers or (None,) * len(weight.terms), strict=True):
        parts: dict[str, tuple[Tensor | QTensor, Quantizer | None]]
        match term:
            case QTensor():
                kind, parts = "quantized", {"spec": (term, own)}
            case LowRank():
                kind = "low rank" if term.sign is None else "signed low rank"
                parts = {"left": (term.left, term.quantizers[0]), "right": (term.right, term.quantizers[1])}
            case Indexed():
                kind, parts = "columns" if term.axis else "rows", {"values": (term.values, term.quantizer)}
        known = {}
        for name, (values, quantizer) in parts.items():
            if isinstance(values, QTensor):
                if quantizer is None:
                    raise UnsupportedError(f"a {kind} term with quantized parts needs its quantizer to be packed")
                known[name] = quantizer
        found.append(Form(kind, known))
    return found


def unpack(stored: Sequence[Form], parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Weight:
    """The weight from its packed parts.

    Raises:
        CheckpointError: a part is missing or does not fit.
    """
    terms: list[Term] = []
    for i, form in enumerate(stored):
        own = {k.removeprefix(f"{i}."): v for k, v in parts.items() if (k.startswith(f"{i}.") if i else not k[0].isdigit())}
        try:
            terms.append(_unpacked(form, own, shape))
        except KeyError:
            raise CheckpointError(f"term {i} is {form.kind!r} and its parts are {sorted(own)}; this version cannot read that") from None
    return Weight(tuple(terms), tuple(form.quantizers.get("spec") for form in stored))


def _unpacked(form: Form, own: Mapping[str, Tensor], shape: tuple[int, ...]) -> Term:
    def part(name: str, wanted: tuple[int, ...]) -> Tensor | QTensor:
        if name not in form.quantizers:
            if tuple(own[name].shape) != wanted:
                raise CheckpointError(f"the part {name!r} is {tuple(own[name].shape)}, a {form.kind} term of {shape} needs {wanted}")
            return own[name]
        inner = {k.removeprefix(f"{name}."): v for k, v in own.items() if k.startswith(f"{name}.")}
        return form.quantizers[name].unpack(inner, wanted)

    match form.kind:
        case "quantized":
            return form.quantizers["spec"].unpack(own, shape)
        case "low rank" | "signed low rank":
            rank = int(own["rank"]) if form.quantizers else own["left"].shape[-1]
            sign = unpack_bits(own["sign"], 1, torch.Size(shape).numel()).reshape(shape) if form.kind.startswith("signed") else None
            known = (form.quantizers.get("left"), form.quantizers.get("right"))
            return LowRank(part("left", (shape[0], rank)), part("right", (rank, shape[1])), sign, known)
        case "rows" | "columns":
            index, axis = own["index"].long(), int(form.kind == "columns")
            if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < shape[axis]:
                raise CheckpointError(f"{form.kind} {int(index.min())}..{int(index.max())} of a matrix of shape {shape}")
            wanted = (shape[0], len(index)) if axis else (len(index), shape[1])
            return Indexed(index, part("values", wanted), axis, shape, form.quantizers.get("values"))
    raise KeyError(form.kind)


def _packed(name: str, values: Tensor | QTensor) -> dict[str, Tensor]:
    if isinstance(values, QTensor):
        return {f"{name}.{k}": v for k, v in values.packed().items()}
    return {name: values.contiguous()}
