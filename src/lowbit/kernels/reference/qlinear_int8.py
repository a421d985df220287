"""y = x W^T + bias with the rows of x in int8: exact sums of integers in every group, then float32 in a fixed order."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.kernels.linear_spec import LinearSpec

#: a group may have so many columns: 255 * 127 * 65536 is below 2**31
MOST_COLUMNS = 1 << 16


def unfit(weight: LinearSpec) -> str | None:
    """Why a weight cannot be multiplied with integers."""
    if weight.group > MOST_COLUMNS:
        return f"groups of {weight.group} columns may overflow 32 bits; up to {MOST_COLUMNS} are exact"
    return None if unit_of(weight.table) is not None else "the table is not a run of at most 8-bit integers times a constant"


def unit_of(table: Tensor) -> float | None:
    """The power of two whose multiples the numbers of a table are, 255 steps apart at most around zero; None if there is none."""
    if not bool(table.isfinite().all()):
        return None
    largest = float(table.abs().max())
    unit = 2.0 ** (torch.frexp(torch.tensor(max(largest, 1e-30)))[1].item() - 8)
    for u in (unit * 2.0**k for k in range(7, -2, -1)):
        steps = table.double() / u
        if bool((steps == steps.round()).all()):
            return u if float(steps.max().clamp(min=0) - steps.min().clamp(max=0)) <= 255 else None
    return None


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in int8: s = max |x| / 127, q = round(x / s) to even; a row with NaN or Inf has a scale that is not finite and zeros.

    Shapes:
        x       (rows, in) float32
        result  (rows, in) int8 and (rows, 1) float32
    """
    s = x.abs().amax(1, keepdim=True) / 127
    q = torch.where((s > 0) & s.isfinite(), x / s, 0.0).round()
    return q.to(torch.int8), s


def run(x: Tensor, weight: LinearSpec, bias: Tensor | None = None) -> Tensor:
    """Group by group: a += float(sum q * w) * (scale * unit), then a += offset * float(sum q); y = a * s + bias.

    Shapes: as ``qlinear``.
    """
    unit = unit_of(weight.table)
    assert unit is not None, unfit(weight)
    q, s = quantize_rows(x.reshape(-1, x.shape[-1]).float())
    W = (weight.table.double() / unit)[weight.codes.long()]
    scales = weight.scales * unit
    total = torch.zeros(len(q), len(W))
    for g in range(weight.groups):
        part = slice(g * weight.group, (g + 1) * weight.group)
        sums = q[:, part].double() @ W[:, part].T  # below 2**53: exact
        total = total + sums.float() * scales[:, g]
        if weight.offset is not None:
            total = total + q[:, part].double().sum(1, keepdim=True).float() * weight.offset[:, g]
    y = total * s
    y = y if bias is None else y + bias.float()
    return y.reshape(*x.shape[:-1], len(W)).to(x.dtype)
