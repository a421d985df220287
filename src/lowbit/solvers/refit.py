"""The scales (and offsets) that are best for codes that stay as they are: least squares, weighed by the inputs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lowbit.errors import ShapeError, UnsupportedError
from lowbit.quantizers.grid import Grid, QTensor, dense
from lowbit.solvers.columns import ordinary
from lowbit.threads import one_thread

#: added to the systems, as a share of their mean diagonal
DAMPING = 1e-9
#: rows whose systems are held at a time
ROWS = 256


def lost(W: Tensor, Q: Tensor, H: Tensor) -> Tensor:
    """(w - q) H (w - q)^T of each row.

    Shapes:
        W, Q    (out, in)
        H       (in, in) float64
        result  (out,) float64
    """
    D = W.double() - Q.double()
    with one_thread():
        return ((D @ H) * D).sum(1)


def check_refittable(grid: Grid) -> None:
    """Refuse grids whose scales are not plain factors of groups of a row.

    Raises:
        UnsupportedError: says what is in the way.
    """
    size = grid.blocks.size
    if not ordinary(grid) or grid.scale is None or not isinstance(size, tuple) or len(size) != 1 or grid.blocks.ragged:
        raise UnsupportedError(f"scales are refitted where they belong to groups of a row, as in int4 g64; these blocks are {grid.blocks}")


def refit(W: Tensor, q: QTensor, H: Tensor) -> QTensor:
    """argmin over scales (and offsets, where each group has one) of (w - w^) H (w - w^)^T, w^ = s t + o, row by row, as they are stored.

    One system of as many unknowns as a row has scales and offsets. A row is changed only where it loses less for that; no scale becomes
    negative.

    Shapes:
        W   (out, in)
        H   (in, in) float64

    Raises:
        UnsupportedError: scales that do not belong to groups of a row.
    """
    grid = q.grid
    check_refittable(grid)
    if tuple(H.shape) != (W.shape[1], W.shape[1]):
        raise ShapeError(f"gram is {tuple(H.shape)}, but W has {W.shape[1]} inputs")
    both = grid.offset is not None and grid.offset_blocks in (None, grid.blocks)
    fixed = None if both or grid.offset is None else (grid.offset_blocks or grid.blocks).expand(dense(grid.offset), grid.shape)
    target = W.double() if fixed is None else W.double() - fixed.double()
    T = replace(grid, scale=None, offset=None, offset_blocks=None).dequantize(q.codes).double()
    found = torch.cat([_solved(target[i : i + ROWS], T[i : i + ROWS], H, grid, both) for i in range(0, len(W), ROWS)])
    scale, offset = found.chunk(2, 1) if both else (found, None)
    assert grid.scale is not None
    new = replace(grid, scale=_as_stored(scale.clamp(min=0), grid.scale))
    if offset is not None:
        new = replace(new, offset=_as_stored(offset, grid.offset))
    before, after = lost(W, q.dequantize(), H), lost(W, QTensor(q.codes, new).dequantize(), H)
    better = (after < before)[:, None]
    kept = replace(grid, scale=_rows(better, new.scale, grid.scale))
    return QTensor(q.codes, replace(kept, offset=_rows(better, new.offset, grid.offset)) if both else kept)


def _solved(W: Tensor, T: Tensor, H: Tensor, grid: Grid, both: bool) -> Tensor:
    """The unknowns of some rows, (rows, unknowns) float64: the scales of the groups, then their offsets."""
    rows, n = W.shape
    groups = grid.blocks.counts(grid.shape)[1]
    size = n // groups
    columns = [T[:, g * size : (g + 1) * size] @ H[g * size : (g + 1) * size] for g in range(groups)]
    if both:
        columns += [H[g * size : (g + 1) * size].sum(0).expand(rows, n) for g in range(groups)]

    def against(x: Tensor) -> Tensor:
        """x A^T: the part of each unknown's column in it, (rows, unknowns)."""
        parts = [(x * T).unflatten(1, (groups, size)).sum(2)]
        return torch.cat(parts + ([x.unflatten(1, (groups, size)).sum(2)] if both else []), 1)

    with one_thread():
        M = torch.stack([against(c) for c in columns], 1)
        b = torch.stack([(c * W).sum(1) for c in columns], 1)
        diagonal = M.diagonal(dim1=1, dim2=2)
        mean = diagonal.mean(1, keepdim=True)
        diagonal.add_(torch.where(diagonal == 0, mean.clamp(min=1e-300), DAMPING * mean))
        L, info = torch.linalg.cholesky_ex(M)
        x = torch.cholesky_solve(b.unsqueeze(2), L).squeeze(2)
    return torch.where((info == 0)[:, None], x, 0.0).nan_to_num(0.0, 0.0, 0.0)


def _as_stored(values: Tensor, like: Tensor | QTensor | None) -> Tensor | QTensor:
    return like.grid.choose(values.float()) if isinstance(like, QTensor) else values.float()


def _rows(choose: Tensor, new: Tensor | QTensor | None, old: Tensor | QTensor | None) -> Tensor | QTensor:
    if isinstance(new, QTensor) and isinstance(old, QTensor):
        return QTensor(torch.where(choose, new.codes, old.codes), old.grid)
    assert isinstance(new, Tensor) and isinstance(old, Tensor)
    return torch.where(choose, new, old)
