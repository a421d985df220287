"""How ggml's block types find scales: signed and plain maxima, and least-squares fits around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.formats.format import Format
from lowbit.scaling.scaling import Affine, Rule, amax

#: how far the first guess of the fits is moved, in codes
MOVES = (0.0, -0.9, -0.6, -0.3, 0.3, 0.6, 0.9)


def _inverse(d: Tensor) -> Tensor:
    return torch.where(d == 0, 0.0, 1 / d)


def signed_largest(blocks: Tensor) -> Tensor:
    """The first of the numbers of largest magnitude in each block, with its sign; NaN where a number is not finite."""
    largest = amax(blocks)
    if blocks.shape[-1] == 0:
        return largest
    place = torch.arange(blocks.shape[-1], device=blocks.device)
    first = torch.where(blocks.abs() == largest.unsqueeze(-1), place, blocks.shape[-1]).amin(-1).clamp(max=blocks.shape[-1] - 1)
    found = blocks.gather(-1, first.unsqueeze(-1)).squeeze(-1)
    return torch.where(torch.isnan(largest), largest, found)


@dataclass(frozen=True)
class SignedLargest(Rule):
    """d = (the number of largest magnitude) / (the smallest number of the format), so it may be negative: Q4_0, Q5_0."""

    name: ClassVar[str] = "signed_largest"

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        d = signed_largest(blocks) / fmt.min
        return Affine(d, inverse=_inverse(d))


@dataclass(frozen=True)
class Largest(Rule):
    """d = max|x| / top, codes from x * (1 / d): Q8_0, TQ1_0, TQ2_0."""

    name: ClassVar[str] = "largest"
    extremes: ClassVar[bool] = True

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        d = amax(blocks) / fmt.top
        return Affine(d, inverse=_inverse(d))


@dataclass(frozen=True)
class Spread(Rule):
    """d = (max - min) / top and the offset min, codes from (x - min) * (1 / d): Q4_1, Q5_1."""

    name: ClassVar[str] = "spread"
    extremes: ClassVar[bool] = True

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> Affine:
        broken = torch.isnan(amax(blocks))
        if blocks.shape[-1] == 0:
            return Affine(amax(blocks), offset=amax(blocks), inverse=amax(blocks))
        low, high = blocks.amin(-1) + 0.0, blocks.amax(-1) + 0.0  # those of zeros may be -0
        d = torch.where(broken, torch.nan, (high - low) / fmt.top)
        return Affine(d, offset=torch.where(broken, 0.0, low), inverse=_inverse(d))


@dataclass(frozen=True)
class LeastSquares(Rule):
    """Candidates for a scale: codes by several first guesses, then the scale sum(w x q) / sum(w q^2): Q3_K, Q6_K, IQ4_NL."""

    name: ClassVar[str] = "least_squares"

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> list[Affine]:
        x = blocks.double()
        w = torch.ones_like(x) if importance is None else importance.double()
        largest = signed_largest(blocks)
        found = [Affine(largest / fmt.min)]
        for move in MOVES:
            guess = largest.double() / (fmt.min * (1 + move / max(-fmt.min, 1.0) * (1 if -fmt.min <= 32 else fmt.step_at_top)))
            y = torch.where(guess.unsqueeze(-1) == 0, 0.0, x / guess.unsqueeze(-1))
            q = fmt.decode(fmt.encode(y)).double()
            below = (w * q * q).sum(-1)
            fitted = torch.where(below > 0, (w * x * q).sum(-1) / below, guess)
            found.append(Affine(torch.where(torch.isnan(largest), torch.nan, fitted.float())))
        return found


@dataclass(frozen=True)
class LeastSquaresOffset(Rule):
    """Candidates for a scale and an offset from zero down: codes by several first guesses, then both by least squares: Q2_K, Q4_K, Q5_K."""

    name: ClassVar[str] = "least_squares_offset"

    def __call__(self, blocks: Tensor, fmt: Format, importance: Tensor | None = None) -> list[Affine]:
        x = blocks.double()
        w = torch.ones_like(x) if importance is None else importance.double()
        broken = torch.isnan(amax(blocks))
        low = x.amin(-1).clamp(max=0) if x.shape[-1] else x.sum(-1)
        high = x.amax(-1) if x.shape[-1] else x.sum(-1)
        first = (high - low) / fmt.top

        def stored(scale: Tensor, offset: Tensor) -> Affine:
            return Affine(torch.where(broken, torch.nan, scale.float()), offset=torch.where(broken, 0.0, offset.float()))

        found = [stored(first, low)]
        total, sum_x = w.sum(-1), (w * x).sum(-1)
        for move in MOVES:
            guess = (high - low) / (fmt.top + move)
            y = torch.where(guess.unsqueeze(-1) == 0, 0.0, (x - low.unsqueeze(-1)) / guess.unsqueeze(-1))
            q = y.nan_to_num(0.0).round().clamp(0, fmt.max)
            sum_q, sum_qq, sum_xq = (w * q).sum(-1), (w * q * q).sum(-1), (w * x * q).sum(-1)
            determinant = total * sum_qq - sum_q * sum_q
            good = determinant > 0
            scale = torch.where(good, (total * sum_xq - sum_x * sum_q) / determinant, guess)
            offset = torch.where(good, (sum_qq * sum_x - sum_q * sum_xq) / determinant, low)
            alone = torch.where(sum_qq > 0, sum_xq / sum_qq, guess)  # the best scale where no offset below zero is wanted
            scale, offset = torch.where(offset > 0, alone, scale), offset.clamp(max=0)
            found.append(stored(torch.where(scale > 0, scale, first), offset))
        return found
