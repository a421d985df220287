"""BATQuant: learned matrices for blocks of channels, as many channels as share a scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError
from lowbit.philox import Key
from lowbit.transforms.learned import Pair, Start, check, orthogonal, train
from lowbit.transforms.transform import Blockwise, Change, Edge, Transform

BATQUANT = Source(
    "BATQuant: Outlier-resilient MXFP4 Quantization via Learnable Block-wise Optimization",
    "Li, Zhang, Xia, Bao, Bai, Dong, Yu",
    2026,
    "arXiv:2603.16590",
    parts="block-wise affine transformation, global and private Kronecker factors",
    departs="The error is that of the layers that read an edge, not of the block. Learned clipping is left to the scale rules of the "
    "formats (mse). Steps and rate are ours; the record does not know the paper's.",
    records=("batquant",),
)


@dataclass(frozen=True, eq=False)
class Kronecker(Change, kind="kronecker"):
    """x' = x diag(B_1 kron A, ..., B_k kron A): each block of g2 rows of g1 channels, X, becomes B_i^T X A.

    Shapes:
        shared, shared_back     (g1, g1) float32, A and its inverse
        own, own_back           (blocks, g2, g2) float32, B_i and their inverses
    """

    shared: Tensor
    own: Tensor
    shared_back: Tensor
    own_back: Tensor

    @staticmethod
    def _product(x: Tensor, own: Tensor, shared: Tensor) -> Tensor:
        X = x.unflatten(-1, (len(own), own.shape[-1], shared.shape[-1]))
        return torch.einsum("kij,...kil->...kjl", own, X @ shared).flatten(-3)

    def online(self, x: Tensor) -> Tensor:
        return self._product(x.float(), self.own, self.shared).to(x.dtype)

    def consumer(self, W: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self._product(W.double(), self.own_back.mT.double(), self.shared_back.mT.double()).to(W.dtype), b

    def inverse(self) -> Kronecker:
        return Kronecker(self.shared_back, self.own_back, self.shared, self.own)

    def parts(self) -> dict[str, Tensor]:
        return {"shared": self.shared, "own": self.own, "shared_back": self.shared_back, "own_back": self.own_back}


@register("transform", "batquant", BATQUANT)
@dataclass(frozen=True)
class BATQuant(Transform):
    """min over T = diag(B_i kron A) of ||Q_w(W T^-T) Q_x(x T) - W x||^2: no number leaves its block, so scales stay local.

    Args:
        size: channels of a block, that of the format's; where it does not divide the channels, its largest divisor that does is taken.
        shared: order of A, which all blocks of an edge share; 0 learns a full matrix for each block.
        start: ``hadamard`` or ``identity``.
        iterations: of Adam; 0 leaves the matrices as they start.
        rate: of Adam, in (0, 1].
    """

    size: int = 32
    shared: int = 8
    start: Start = "hadamard"
    iterations: int = 60
    rate: float = 0.01
    needs: ClassVar[tuple[str, ...]] = ("rows",)
    absorbed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check("batquant", self.size, self.iterations, self.rate)
        if self.shared < 0 or self.start not in ("hadamard", "identity"):
            raise DataError(f"batquant:shared={self.shared}:start={self.start}: the order is 0 or more, the start hadamard or identity")

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Change | None:
        n = math.gcd(self.size, edge.channels)
        small = math.gcd(self.shared, n) if self.shared else 1
        A, B = orthogonal(self.start, small), orthogonal(self.start, n // small).repeat(edge.channels // n, 1, 1)
        start, rates = ([A, B], [self.rate, self.rate]) if self.shared else ([B], [self.rate])
        found = train(edge, stats["rows"], start, self._build, self.iterations, rates)
        if found is None:
            return None
        if not self.shared:
            return Blockwise(found[0].float(), torch.linalg.inv(found[0]).float())
        inverses = [torch.linalg.inv(p).float() for p in found]
        return Kronecker(found[0].float(), found[1].float(), *inverses)

    def _build(self, parameters: Sequence[Tensor]) -> Pair:
        if not self.shared:
            return Pair(parameters[0], torch.linalg.inv(parameters[0]))
        A, B = parameters
        return Pair(_kron(B, A), _kron(torch.linalg.inv(B), torch.linalg.inv(A)))


def _kron(B: Tensor, A: Tensor) -> Tensor:
    """B_i kron A, (blocks, g2 g1, g2 g1)."""
    n = B.shape[-1] * len(A)
    return torch.einsum("kij,lm->kiljm", B, A).reshape(len(B), n, n)
