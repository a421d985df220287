"""QEP: before a weight is quantized it is corrected for what the layers before it have already lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError, ShapeError, UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers.gptq import GPTQ
from lowbit.solvers.solver import Solver
from lowbit.threads import one_thread

ARAI = Source(
    "Quantization Error Propagation: Revisiting Layer-Wise Post-Training Quantization",
    "Arai, Ichikawa",
    2025,
    "arXiv:2504.09629",
    parts="section 4, Eq. 9-11 (the correction, its strength)",
    departs="Which layers are left uncorrected is a pattern (the released code names mlp.down_proj).",
    records=("qep",),
)


@register("solver", "qep", ARAI)
@dataclass(frozen=True)
class QEP(Solver):
    """W* = W + strength * W C (H + damping mean(diag H) I)^-1, then the inner solver.

    C = (X - X^) X^^T compares the full-precision stream X with the quantized one X^, H = X^ X^^T.

    Args:
        inner: the solver of the corrected weight, ``gptq`` by default; ``qep:inner=rtn``.
        strength: 0 corrects nothing, 1 fully; 0.5 as in the paper.
        damping: share of mean(diag H), 1 as in the released code.
        skip: layers whose name ends so are not corrected.
    """

    inner: Solver = GPTQ()
    strength: float = 0.5
    damping: float = 1.0
    skip: str = "down_proj"
    needs: ClassVar[tuple[str, ...]] = ("gram", "cross")

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1 or not self.damping > 0:
            raise DataError(f"qep:strength={self.strength}:damping={self.damping}: the strength is in [0, 1], the damping above 0")

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        if self.strength > 0 and not (self.skip and key.tensor.endswith(self.skip)):
            W = corrected(W, stats["gram"], stats["cross"], self.strength, self.damping)
        return self.inner.solve(W, quantizer, stats, key)


def corrected(W: Tensor, H: Tensor, C: Tensor, strength: float, damping: float) -> Tensor:
    """W + strength * W C (H + damping mean(diag H) I)^-1, solved in float64 on one thread.

    Raises:
        ShapeError: the statistics do not fit the weight.
        UnsupportedError: the damped Gram matrix is not positive definite.
    """
    n = W.shape[1]
    if tuple(H.shape) != (n, n) or tuple(C.shape) != (n, n):
        raise ShapeError(f"gram is {tuple(H.shape)} and cross {tuple(C.shape)}, but W has {n} inputs")
    damped = H.clone()
    mean = float(H.diagonal().mean())
    damped.diagonal().add_(damping * mean if mean else 1.0)
    with one_thread():
        L, info = torch.linalg.cholesky_ex(damped)
        if int(info):
            raise UnsupportedError(
                f"the Gram matrix of {len(H)} inputs is not positive definite with damping {damping:g}; "
                f"raise it: qep:damping={damping * 10:g}"
            )
        step = torch.cholesky_solve((W.double() @ C).mT, L).mT
    return (W.double() + strength * step).float()
