"""OSTQuant: an orthogonal matrix for each block of channels and a scale for each channel, learned together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError
from lowbit.philox import Key
from lowbit.threads import one_thread
from lowbit.transforms.learned import Build, Pair, check, orthogonal, train
from lowbit.transforms.transform import Blockwise, Edge, Transform

HU = Source(
    "OstQuant: Refining Large Language Model Quantization with Orthogonal and Scaling Transformations for Better Distribution Fitting",
    "Hu, Cheng, Yang, Xu, Yuan, Yu, Xu, Jiang, Zhou",
    2025,
    "arXiv:2501.13987",
    parts="pairs of orthogonal and scaling transformations that are learned together, section 3.3; the start WOMI",
    departs="Layer-wise: each edge has blocks of its own, learned on the error of the layers that read it and computed in front of them, "
    "where the paper learns one rotation of the residual stream and scales of each block end to end, on the largest logits of the "
    "original. Orthogonal matrices are Cayley transforms, trained by plain Adam instead of on the manifold. No rotation of the cache.",
    records=("ostquant",),
)


@register("transform", "ostquant", HU)
@dataclass(frozen=True)
class OSTQuant(Transform):
    """x' = (x / s) O and W' = (W s) O with the s > 0 and the orthogonal O of each block that cost least.

    O = O_0 (1 - K)^-1 (1 + K) with K antisymmetric, zero at the start. O_0 is a Hadamard matrix, the identity, or WOMI: the eigenvectors
    of the block's sum of W^T W, times a Hadamard matrix.

    Args:
        size: channels of a block; where it does not divide the channels, its largest divisor that does is taken.
        start: ``womi``, ``hadamard`` or ``identity``.
        scales: whether s is learned too; otherwise it is 1.
        iterations: of Adam; 0 leaves O at its start.
        rate: of Adam for K and the logarithms of s, in (0, 1].
    """

    size: int = 64
    start: Literal["womi", "hadamard", "identity"] = "hadamard"
    scales: bool = True
    iterations: int = 60
    rate: float = 0.03
    needs: ClassVar[tuple[str, ...]] = ("rows",)
    absorbed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check("ostquant", self.size, self.iterations, self.rate)
        if self.start not in ("womi", "hadamard", "identity"):
            raise DataError(f"ostquant:start={self.start}: it is womi, hadamard or identity")

    def first(self, edge: Edge) -> Tensor:
        """O_0, (blocks, n, n) float64."""
        n = math.gcd(self.size, edge.channels)
        start = orthogonal("identity" if self.start == "identity" else "hadamard", n).repeat(edge.channels // n, 1, 1)
        if self.start != "womi":
            return start
        with one_thread():
            blocks = torch.cat([W.double() for W in edge.weights]).unflatten(1, (-1, n)).transpose(0, 1)
            return torch.linalg.eigh(blocks.mT @ blocks).eigenvectors @ start

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Blockwise | None:
        O_0 = self.first(edge)
        start = [torch.zeros_like(O_0), torch.zeros(edge.channels, dtype=torch.float64)]
        build = builder(O_0)
        found = train(edge, stats["rows"], start, build, self.iterations, [self.rate, self.rate * self.scales])
        return None if found is None else Blockwise(*(T.float() for T in build(found)))


def builder(O_0: Tensor) -> Build:
    """K and log s -> diag(1 / s) O and its inverse, block by block."""

    def build(parameters: Sequence[Tensor]) -> Pair:
        K, log_s = parameters
        skew, one = K - K.mT, torch.eye(K.shape[-1], dtype=K.dtype)
        O = O_0.to(K.dtype) @ torch.linalg.solve(one - skew, one + skew)  # noqa: E741
        s = log_s.exp().reshape(len(O), -1, 1)
        return Pair(O / s, (O * s).mT)

    return build
