"""GPTQ: columns are rounded one after the other, and what each loses is made up for by those that follow."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError, ShapeError, UnsupportedError
from lowbit.formats.table import TableFormat
from lowbit.philox import Key
from lowbit.quantizers.grid import Grid, QTensor, dense
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme
from lowbit.quantizers.weight import Weight
from lowbit.rounding.ieee754 import nearest_even
from lowbit.solvers.columns import GroupFits, RoundColumn, column_rounder, ordinary, outer_level, refittable, rounders, table_rounder
from lowbit.solvers.solver import Solver
from lowbit.threads import one_thread

FRANTAR = Source(
    "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    "Frantar, Ashkboos, Hoefler, Alistarh",
    2022,
    "arXiv:2210.17323",
    parts="Alg. 1 with lazy batches; act-order as in the released code; order=group is the group-aware reordering of arXiv:2505.14638",
    departs="The Gram matrix is factorized in float64. Columns without input keep their nearest codes instead of becoming zero. "
    "Under act-order the groups are those of the original columns (static groups), so no index is stored.",
    records=("dpq-gar",),
)

Order = Literal["none", "act", "group"]


@register("solver", "gptq", FRANTAR)
@dataclass(frozen=True)
class GPTQ(Solver):
    """Column-wise rounding with feedback through a Cholesky factor of the inverse Gram matrix.

    Minimizes ||(W - Q) X||_F^2 = tr((W - Q) H (W - Q)^T) greedily.

    Symbols:
        W   (out, in)  weight
        H   (in, in)   Gram matrix of the inputs
        U   (in, in)   upper triangular, U^T U = (H + damping mean(diag H) I)^-1

    Args:
        damping: added to the diagonal, as a share of its mean; above 0. Larger trusts the calibration data less.
        order: ``act`` by falling diag(H), groups staying those of the original columns, fitted before the sweep (the
            default, as in llm-compressor; it cost nothing at run time and lost least in our tables); ``none`` left to
            right; ``group`` whole groups by their largest diag(H), columns inside a group likewise, each group fitted
            when the sweep reaches it.
        batch: columns whose feedback to the rest is gathered in one product; changes speed only.

    Raises:
        ShapeError: the Gram matrix does not fit the weight.
        UnsupportedError: a quantizer that does not round single numbers to nearest, or no damping makes the factorization work.
    """

    damping: float = 0.01
    order: Order = "act"
    batch: int = 128
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise DataError(f"gptq:damping={self.damping}: the damping is above 0, 0.01 for instance")
        if self.order not in ("none", "act", "group"):
            raise DataError(f"gptq:order={self.order!r}: the order is none, act or group")

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        H = stats["gram"]
        n = W.shape[1]
        if tuple(H.shape) != (n, n):
            raise ShapeError(f"gram is {tuple(H.shape)}, but W has {n} inputs")
        rounding = getattr(quantizer, "rounding", nearest_even)
        if rounding is not nearest_even:
            raise UnsupportedError(f"gptq rounds to nearest, the quantizer says round={rounding}; leave that out, or take the solver rtn")
        W = W.detach().float()
        diagonal = H.diagonal()
        group = refittable(quantizer)
        group = n if group == -1 else group
        perm = self._permutation(diagonal, group or n)
        U = shared_factor(H, self.damping, self.order, group or n, perm)
        start = quantizer.grid(W)
        if type(start) is not Grid:
            raise UnsupportedError(f"gptq rounds column by column, which a {type(start).__name__} does not do; take the solver rtn")
        sweep = _Sweep(W, start, U, perm, quantizer if group and self.order != "act" else None, group, self.batch)
        C, grid = sweep.run()
        chosen = replace(grid, overflow="saturate").choose(C, nearest_even)
        if not isinstance(quantizer, Scheme):  # it may pack its tensors in a way of its own
            chosen = replace(quantizer.quantize(W), codes=chosen.codes, grid=grid)
        return Weight((chosen,), (quantizer,))

    def _permutation(self, diagonal: Tensor, group: int) -> Tensor | None:
        if self.order == "none":
            return None
        if self.order == "act":
            return diagonal.argsort(descending=True, stable=True)
        inside = diagonal.reshape(-1, group)
        starts = torch.arange(0, len(diagonal), group, device=diagonal.device)
        columns = inside.argsort(dim=1, descending=True, stable=True) + starts[:, None]
        return columns[inside.amax(1).argsort(descending=True, stable=True)].reshape(-1)


class _Last:
    """The factor computed last: layers that share their input share it."""

    key: tuple[float, str, int, int] | None = None
    gram: weakref.ref[Tensor] | None = None
    factor: Tensor | None = None

    @classmethod
    def forget(cls, gram: object = None) -> None:
        """Drop the factor; called when its Gram matrix goes."""
        cls.key, cls.gram, cls.factor = None, None, None


def shared_factor(H: Tensor, damping: float, order: str, group: int, perm: Tensor | None) -> Tensor:
    """``inverse_factor``, computed once for consecutive layers with one and the same Gram matrix."""
    key = (damping, order, group if order == "group" else 0, H._version)
    if _Last.key != key or _Last.gram is None or _Last.gram() is not H or _Last.factor is None:
        _Last.forget()
        factor = inverse_factor(H, damping, perm)
        _Last.key, _Last.gram, _Last.factor = (*key[:3], H._version), weakref.ref(H, _Last.forget), factor  # H has been worked on
    return _Last.factor


def inverse_factor(H: Tensor, damping: float, perm: Tensor | None = None) -> Tensor:
    """U with U^T U = (H + damping * mean(diag H) * I)^-1, upper triangular; inputs that are always zero count 1.

    The factorization is float64 on one thread. Where it fails the damping is raised tenfold, twice at most.

    Shapes:
        H       (in, in) float64
        result  (in, in) float32

    Raises:
        UnsupportedError: H is not positive definite even then; the message holds what to do.
    """
    diagonal = H.diagonal()
    mean = float(diagonal.mean())
    if mean == 0.0:
        return torch.eye(len(H), device=H.device)
    line = diagonal.clone()
    for attempt in range(3):
        raised = torch.where(line == 0, mean, line) + damping * 10**attempt * mean
        if perm is None:  # H itself serves, with another diagonal for the time being: a copy of a large one is too much memory
            H.diagonal().copy_(raised)
            L, info = _cholesky(H)
            H.diagonal().copy_(line)
        else:
            damped = H[perm][:, perm]
            damped.diagonal().copy_(raised[perm])
            L, info = _cholesky(damped)
            del damped
        if info == 0:
            with one_thread():
                torch.cholesky_inverse(L, out=L)
            U, info = _cholesky(L, upper=True)
            if info == 0 and bool(torch.isfinite(U.diagonal()).all()):
                del L
                return U.float()
    raise UnsupportedError(
        f"the Gram matrix of {len(H)} inputs is not positive definite even with damping {damping * 100:g}; "
        "use more calibration tokens or a larger damping (gptq:damping=0.1)"
    )


def _cholesky(H: Tensor, *, upper: bool = False) -> tuple[Tensor, int]:
    """The factor and LAPACK's info, on one thread."""
    with one_thread():
        L, info = torch.linalg.cholesky_ex(H, upper=upper)
    return L, int(info)


def on_grid(W: Tensor, grid: Grid, H: Tensor, damping: float) -> QTensor:
    """The codes that the sweep in act-order gives on a grid that stays as it is.

    Shapes:
        W   (out, in) float32
        H   (in, in) float64
    """
    perm = H.diagonal().argsort(descending=True, stable=True)
    C, _ = _Sweep(W, grid, shared_factor(H, damping, "act", len(H), perm), perm, None, 0, 128).run()
    return replace(grid, overflow="saturate").choose(C, nearest_even)


class _Sweep:
    """One pass over the columns, in the order of ``perm``; works on W transposed, so that columns are contiguous."""

    def __init__(self, W: Tensor, start: Grid, U: Tensor, perm: Tensor | None, refits: Quantizer | None, group: int, batch: int):
        """``refits`` fits the scales of each group of columns when the sweep reaches it; None keeps those of ``start``."""
        self.W, self.U, self.perm, self.batch, self.group = W, U, perm, batch, group
        self.fits: GroupFits | None = None
        self.static: Grid | None = start
        if refits is not None:
            assert isinstance(refits, Scheme)
            self.fits = GroupFits(refits, (W.shape[0], W.shape[1]), group, outer_level(start))
            self.static = None
        self.rounders = None if self.static is None else rounders(self.static)

    def run(self) -> tuple[Tensor, Grid]:
        """Each column as it was when its turn came, and the grid; rounded to nearest they are the result."""
        rows, n = self.W.shape
        perm = torch.arange(n, device=self.W.device) if self.perm is None else self.perm
        places = perm.tolist()
        work = self.W.mT[perm].contiguous()
        rounder: RoundColumn | None = None
        for start in range(0, n, self.batch):
            end = min(start + self.batch, n)
            lost = work.new_empty(end - start, rows)
            for j in range(start, end):
                column = places[j]
                if self.fits is not None and j % self.group == 0:
                    rounder = self._next_group(work, lost, start, j, column // self.group)
                elif self.rounders is not None:
                    rounder = self.rounders(column)
                assert rounder is not None
                w = work[j]
                error = (w - rounder(w)) / self.U[j, j]
                lost[j - start] = error
                if j + 1 < end:
                    work[j + 1 : end].addr_(self.U[j, j + 1 : end], error, alpha=-1)
            if end < n:
                work[end:] -= self.U[start:end, end:].mT @ lost
        C = torch.empty_like(self.W)
        C[:, perm] = work.mT
        grid = self.static if self.fits is None else self.fits.grid()
        assert grid is not None
        return C, grid

    def _next_group(self, work: Tensor, lost: Tensor, start: int, j: int, index: int) -> RoundColumn:
        """Fit the group that begins at place j on its columns as the sweep has left them; later batches' share is added first."""
        assert self.fits is not None
        last = j + self.group
        columns = work[j:last]
        batch_end = min(start + self.batch, len(work))
        if last > batch_end and j > start:
            columns = columns.clone()
            columns[batch_end - j :] -= self.U[start:j, batch_end:last].mT @ lost[: j - start]
        grid = self.fits.fit(index, columns.mT.contiguous())
        fmt = grid.format
        if isinstance(fmt, TableFormat) and ordinary(grid):
            parts = [None if v is None else dense(v)[:, 0] for v in (grid.scale, grid.zero, grid.offset)]
            return table_rounder(fmt, nearest_even, *parts)
        return column_rounder(grid.part(slice(None), slice(0, 1)), 0)
