"""LoRC: what quantization takes away is given back by a low-rank product, plain or fitted to the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError, ShapeError, UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.spec import quantizer as parse
from lowbit.quantizers.weight import LowRank, Weight
from lowbit.solvers.gptq import GPTQ
from lowbit.solvers.solver import Solver
from lowbit.threads import one_thread

WU = Source(
    "ZeroQuant-FP: A Leap Forward in LLMs Post-Training W4A8 Quantization Using Floating-Point Formats",
    "Wu, Yao, He",
    2023,
    "arXiv:2307.09782",
    parts="section 3, low rank compensation (from ZeroQuant-V2, arXiv:2303.08302); fit=diagonal as in LQER, arXiv:2402.02446, section 3.2",
    departs="fit=gram is the best product for the outputs on the calibration data. The factors are int8 with a scale a row by default.",
    records=("zeroquant-fp",),
)

Fit = Literal["none", "diagonal", "gram"]


@register("solver", "lorc", WU)
@dataclass(frozen=True)
class LoRC(Solver):
    """W ~ Q + L R, with L R the best product of its rank for E S, E = W - Q.

    S is the identity (``none``: least ||E - L R||), the root of the mean square of each input (``diagonal``), or the Cholesky factor of
    the Gram matrix (``gram``: least ||(E - L R) X||). With E S = U D V^T: L = U sqrt(D), R = sqrt(D) V^T S^-1, cut to the rank.

    Args:
        inner: the solver of Q.
        rank: of the product, at least 1; at most the shorter side of the weight is used.
        fit: what the product is best for.
        factors: spec string of the quantizer of both factors.

    Raises:
        DataError: a number or word outside of its range.
        UnsupportedError: an inner solver that needs more than the Gram matrix.
    """

    inner: Solver = GPTQ()
    rank: int = 8
    fit: Fit = "none"
    factors: str = "int8"
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def __post_init__(self) -> None:
        if self.rank < 1 or self.fit not in ("none", "diagonal", "gram"):
            raise DataError(f"lorc:rank={self.rank}:fit={self.fit}: the rank is at least 1, the fit none, diagonal or gram")
        if self.inner.calibrated and set(self.inner.needs) != {"gram"}:
            raise UnsupportedError("lorc goes around a solver that needs the Gram matrix at most, gptq for instance; write qep:inner=lorc")

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        H = stats["gram"]
        if tuple(H.shape) != (W.shape[1], W.shape[1]):
            raise ShapeError(f"gram is {tuple(H.shape)}, but W has {W.shape[1]} inputs")
        begun = self.inner.solve(W, quantizer, stats, key)
        left, right = compensation(W.double() - begun.dequantize().double(), H, min(self.rank, *W.shape), self.fit)
        stored = parse(self.factors)
        term = LowRank(stored.quantize(left.float()), stored.quantize(right.float()), None, (stored, stored))
        return Weight((*begun.terms, term), (*begun.quantizers, None))

    def nbytes(self, quantizer: Quantizer, shape: tuple[int, ...]) -> int:
        """Those of the inner solver, both factors, and 4 for the rank."""
        rank, stored = min(self.rank, *shape), parse(self.factors)
        return self.inner.nbytes(quantizer, shape) + stored.nbytes((shape[0], rank)) + stored.nbytes((rank, shape[1])) + 4


def compensation(E: Tensor, H: Tensor, rank: int, fit: Fit) -> tuple[Tensor, Tensor]:
    """The factors (out, rank) and (rank, in) of the best product for an error E (out, in), float64 on one thread."""
    if not bool(H.diagonal().any()):  # nothing is known of the inputs
        fit = "none"
    with one_thread():
        if fit == "gram":
            S = _root(H)
            U, D, V = torch.linalg.svd(E @ S, full_matrices=False)
            V = torch.linalg.solve_triangular(S, V, upper=False, left=False)
        elif fit == "diagonal":
            size = H.diagonal().sqrt()
            size = size + 1e-3 * size.mean()  # inputs that are always zero keep a little weight
            U, D, V = torch.linalg.svd(E * size, full_matrices=False)
            V = V / size
        else:
            U, D, V = torch.linalg.svd(E, full_matrices=False)
    root = D[:rank].sqrt()
    return U[:, :rank] * root, root[:, None] * V[:rank]


def _root(H: Tensor) -> Tensor:
    """The Cholesky factor of H with a little more on its diagonal, and more where that does not do."""
    for share in (1e-6, 1e-4, 1e-2):
        damped = H.clone()
        damped.diagonal().add_(share * H.diagonal().mean())
        S, info = torch.linalg.cholesky_ex(damped)
        if not int(info):
            return S
    raise UnsupportedError(f"the Gram matrix of {len(H)} inputs has no Cholesky factor even with damping 0.01; use lorc:fit=diagonal")
