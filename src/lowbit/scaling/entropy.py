"""Entropy calibration: the clip whose quantized histogram has the least divergence from the histogram of magnitudes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, amax, fixed_sum

MIGACZ = Source(
    "8-bit Inference with TensorRT",
    "Migacz",
    2017,
    "GTC 2017",
    parts="entropy calibration: 2048 bins of |x|, outliers added to the last bin kept",
    departs="Bins are merged by the format's own codes, so any format will do. Clips are tried every ``stride`` bins from ``first`` on.",
    records=("int8-principles",),
)


def entropy_clip(counts: Tensor, fmt: Format, stride: int = 16, first: int = 128) -> Tensor:
    """How many bins to keep, of each histogram.

    With P the first i bins (what lies beyond is added to the last) and Q the same bins without it, merged where they share
    a code and spread again over the bins that are not empty: the i with the least KL(P || Q).

    Shapes:
        counts  (*, bins) float64
        result  (*) int64
    """
    bins = counts.shape[-1]
    total = fixed_sum(counts)
    best, least = torch.full(total.shape, bins), torch.full(total.shape, torch.inf, dtype=torch.float64)
    for i in range(min(first, bins), bins + 1, stride):
        kept = counts[..., :i]
        inside = fixed_sum(kept)
        P = kept.clone()
        P[..., -1] += total - inside
        code = fmt.encode((torch.arange(i) + 0.5) * (fmt.top / i)).long().expand(kept.shape)
        full = (kept > 0).double()
        sums, sizes = (torch.zeros(*kept.shape[:-1], 1 << fmt.bits, dtype=torch.float64).scatter_add(-1, code, v) for v in (kept, full))
        Q = torch.where(full > 0, (sums / sizes.clamp(min=1)).gather(-1, code), 0.0)
        p, q = P / total.clamp(min=1).unsqueeze(-1), Q / inside.clamp(min=1).unsqueeze(-1)
        divergence = fixed_sum(torch.where(p > 0, p * (p / q.clamp(min=1e-12)).clamp(min=1e-300).log(), 0.0))
        better = divergence < least
        best, least = torch.where(better, i, best), torch.where(better, divergence, least)
    return best


def percentile_clip(counts: Tensor, share: float = 0.9999) -> Tensor:
    """How many bins of each histogram hold ``share`` of its counts.

    Shapes:
        counts  (*, bins)
        result  (*) int64
    """
    so_far = counts.double().cumsum(-1)
    return (so_far < share * so_far[..., -1:]).sum(-1) + 1


def clip_of_histogram(value: Tensor, fmt: Format | None = None, share: float | None = None) -> float:
    """The static range of a histogram statistic: by entropy for a format, or by a percentile.

    Shapes:
        value   (bins + 1,): the upper end of the last bin, then the counts

    Raises:
        UnsupportedError: neither or both of fmt and share.
    """
    if (fmt is None) == (share is None):
        raise UnsupportedError("a clip is found for a format (entropy) or for a share (percentile); give one of them")
    limit, counts = float(value[0]), value[1:].double()
    kept = entropy_clip(counts, fmt) if fmt is not None else percentile_clip(counts, share or 0.0)
    return limit * int(kept) / len(counts)


@register("scaling", "entropy", MIGACZ)
@dataclass(frozen=True)
class Entropy(Rule):
    """scale = clip / top, the clip found in a histogram of each block; meant for large blocks.

    Args:
        bins: of the histogram.
        stride: a clip is tried every so many bins.
    """

    name: ClassVar[str] = "entropy"
    bins: int = 2048
    stride: int = 128

    def __post_init__(self) -> None:
        if self.bins < 128 or not 1 <= self.stride <= self.bins:
            raise UnsupportedError(f"{self}: at least 128 bins, and a stride of 1 to that many")

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        if fmt.bits > 8:
            raise UnsupportedError(f"entropy merges bins by codes of up to 8 bits, {fmt.name} has {fmt.bits}; use percentile or mse")
        largest = amax(blocks)
        top = largest.nan_to_num(0.0).double().unsqueeze(-1)
        place = (blocks.double().abs() / torch.where(top == 0, 1.0, top) * self.bins).nan_to_num(0.0, 0.0, 0.0)
        place = place.long().clamp(0, self.bins - 1)
        counts = torch.zeros(*blocks.shape[:-1], self.bins, dtype=torch.float64)
        counts.scatter_add_(-1, place, torch.ones_like(place, dtype=torch.float64))
        kept = entropy_clip(counts, fmt, self.stride)
        scale = largest.double() * kept / self.bins / fmt.top
        return Affine(scale.clamp(max=torch.finfo(torch.float32).max).float())


entropy = Entropy()
