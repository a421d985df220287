"""AdaRound: a rectified sigmoid for each weight, pushed to 0 or 1, decides which of its two neighbours on the grid it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers import neighbours
from lowbit.solvers.neighbours import Between, grid_of, pieces, stored
from lowbit.solvers.reconstruction import Adam, Reconstruction, Soft

NAGEL = Source(
    "Up or Down? Adaptive Rounding for Post-Training Quantization",
    "Nagel, Amjad, van Baalen, Louizos, Blankevoort",
    2020,
    "arXiv:2004.10568",
    parts="Eq. 21-24; gate=scaled is the scale-aware gate of FP4DiT, arXiv:2503.15465, for grids whose steps differ",
    departs="The output that is matched is that of a block (as in BRECQ, arXiv:2102.05426), not of a layer. Any grid with two neighbours; "
    "the gate is scaled with the step over its mean. The weight of the penalty is relative to the gradients, so that it need not be found "
    "anew for each model (in the paper 0.01, absolute). Far fewer steps at a higher rate by default.",
    records=("adaround", "fp4dit", "fpq-diffusion"),
)

#: the ends that the sigmoid is stretched to before it is cut to [0, 1]
LEFT, RIGHT = -0.1, 1.1
#: how near to 0 or 1 a gate begins at the most
NEAR = 0.02

Gate = Literal["plain", "scaled"]


@register("solver", "adaround", NAGEL)
@dataclass(frozen=True)
class AdaRound(Reconstruction):
    """w = low + h(V) gap with h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1), begun at h = (w - low) / gap; in the end h >= 1/2 goes up.

    The error of the block plus lambda * sum(1 - |2 h - 1|^beta), beta falling from 20 to 2, after a fifth of the steps without it. lambda
    is ``penalty`` times the mean magnitude of the error's derivatives in h, at each step and for each weight matrix.

    Args:
        steps, batch, checks: see ``Reconstruction``.
        rate: of Adam.
        penalty: of undecided gates.
        gate: ``plain``, or ``scaled``: sigmoid(V / step), so that weights on small steps are moved as fast as others.

    Raises:
        UnsupportedError: a number outside of its range, or a quantizer without one table.
    """

    steps: int = 80
    rate: float = 0.05
    penalty: float = 3.0
    gate: Gate = "plain"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gate not in ("plain", "scaled") or not self.rate > 0 or not self.penalty >= 0:
            raise UnsupportedError(
                f"adaround:gate={self.gate}:rate={self.rate:g}:penalty={self.penalty:g}: the gate is plain or scaled, the rate above 0, "
                "the penalty not below"
            )

    def soft(self, W: Tensor, quantizer: Quantizer, start: Weight) -> Soft:
        return Gated(W, quantizer, start, self)

    def refuses(self, quantizer: Quantizer) -> str | None:
        return neighbours.refusal(quantizer, "adaround")


def gate(V: Tensor) -> Tensor:
    """clip(1.2 sigmoid(V) - 0.1, 0, 1)."""
    return V.sigmoid().mul_(RIGHT - LEFT).add_(LEFT).clamp_(0, 1)


def ungate(h: Tensor) -> Tensor:
    """The V of a gate h in (0, 1)."""
    return -((RIGHT - LEFT) / (h - LEFT) - 1).log()


class Gated(Soft):
    """One weight with its gates."""

    def __init__(self, W: Tensor, quantizer: Quantizer, start: Weight, solver: AdaRound) -> None:
        self.W, self.quantizer, self.solver = W, quantizer, solver
        stand_in, self.grid = grid_of(W, quantizer, start)
        self.between = Between.of(stand_in, self.grid)
        self.unit: Tensor | float = 1.0
        if solver.gate == "scaled":
            mean = float(self.between.gap.double().mean())
            self.unit = (self.between.gap / mean).clamp_(min=1e-3) if mean > 0 else 1.0
        self.V = ungate(self.between.place.clamp(NEAR, 1 - NEAR)) * self.unit
        self.out = torch.empty_like(self.V)
        self.parameters = (self.V,)
        self.adam = Adam(self.V, solver.rate)

    def _unit(self, piece: slice) -> Tensor | float:
        return self.unit[piece] if isinstance(self.unit, Tensor) else self.unit

    def values(self) -> Tensor:
        for i in pieces(self.V):
            torch.addcmul(self.between.low[i], gate(self.V[i] / self._unit(i)), self.between.gap[i], out=self.out[i])
        return self.out

    def move(self, gradient: Tensor, progress: float) -> None:
        beta, weight = exponent(progress), 0.0
        if beta is not None and self.solver.penalty > 0:
            weight = self.solver.penalty * float((gradient * self.between.gap).abs_().mean())
        for i in pieces(self.V):
            V = self.V[i] / self._unit(i)
            h, within = gate(V), V.sigmoid_()
            slope = gradient[i].mul_(self.between.gap[i])
            if beta is not None and weight:
                away = 2 * h - 1
                slope.sub_(away.abs().pow_(beta - 1).mul_(away.sign_()), alpha=2 * beta * weight)
            slope.mul_(within.mul_(1 - within).mul_(RIGHT - LEFT)).masked_fill_((h <= 0) | (h >= 1), 0).div_(self._unit(i))
        self.adam.step(gradient)

    def hard(self) -> Tensor:
        return torch.addcmul(self.between.low, (self.V >= 0).float(), self.between.gap)

    def weight(self) -> Weight:
        return stored(self.hard(), self.grid, self.quantizer, self.W)


def exponent(progress: float, first: float = 20.0, last: float = 2.0, alone: float = 0.2) -> float | None:
    """The exponent of the penalty: None for a share ``alone`` of the steps, then from ``first`` to ``last`` along half a cosine."""
    if progress < alone:
        return None
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * (progress - alone) / (1 - alone)))
