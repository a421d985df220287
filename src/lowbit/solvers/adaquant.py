"""AdaQuant: a free perturbation of each weight and the range of each block are learned straight through the rounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.quantizers.grid import Grid
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers import neighbours, ranges
from lowbit.solvers.neighbours import grid_of, stored
from lowbit.solvers.ranges import Learned
from lowbit.solvers.reconstruction import Adam, Reconstruction, Soft

HUBARA = Source(
    "Improving Post Training Neural Quantization: Layer-wise Calibration and Integer Programming",
    "Hubara, Nahshan, Hanani, Banner, Soudry",
    2020,
    "arXiv:2006.10518",
    parts="section 3.1, Eq. 2 (AdaQuant, sequential): perturbation and weight scales",
    departs="Weights only, without the layer's bias. The output that is matched is that of a block. Rates are in units of the mean scale, "
    "and of the range.",
    records=("adaquant",),
)


@register("solver", "adaquant", HUBARA)
@dataclass(frozen=True)
class AdaQuant(Reconstruction):
    """round((w + V) / s) with V and a share of each block's range by Adam; unlike AdaRound a weight may move by more than one step.

    Args:
        steps, batch, checks: see ``Reconstruction``.
        rate: of V, in mean scales of the weight.
        range_rate: of the shares.

    Raises:
        UnsupportedError: a rate below 0, or a quantizer whose scales cannot be moved alone.
    """

    rate: float = 0.02
    range_rate: float = 0.003

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rate > 0 or not self.range_rate >= 0:
            raise UnsupportedError(
                f"adaquant:rate={self.rate:g}:range_rate={self.range_rate:g}: the first is above 0, the second not below"
            )

    def soft(self, W: Tensor, quantizer: Quantizer, start: Weight) -> Soft:
        return Perturbed(W, quantizer, start, self)

    def refuses(self, quantizer: Quantizer) -> str | None:
        return neighbours.refusal(quantizer, "adaquant") or ranges.refusal(quantizer, "adaquant")


class Perturbed(Soft):
    """One weight with its perturbation and its shares."""

    def __init__(self, W: Tensor, quantizer: Quantizer, start: Weight, solver: AdaQuant) -> None:
        self.W, self.quantizer = W, quantizer
        self.learned = Learned(*grid_of(W, quantizer, start))
        self.begun = self.learned.x.clone()
        self.V = torch.zeros_like(self.begun)
        self.shares = [torch.ones_like(self.learned.scale0) for _ in range(1 if self.learned.ends is None else 2)]
        self.parameters = (self.V, *self.shares)
        unit = float(self.learned.scale0.double().mean())
        self.adams = [Adam(self.V, solver.rate * unit), *(Adam(share, solver.range_rate) for share in self.shares)]

    def _round(self) -> tuple[Tensor, Grid]:
        torch.add(self.begun, self.V, out=self.learned.x)
        return self.learned.round(self.shares[0], self.shares[1] if len(self.shares) > 1 else None, None)

    def values(self) -> Tensor:
        return self._round()[0]

    def move(self, gradient: Tensor, progress: float) -> None:
        of_v = torch.empty_like(self.V)
        slopes = self.learned.gradients(gradient, None, lambda piece, found: of_v[piece].copy_(found))
        for adam, slope in zip(self.adams, (of_v, *slopes), strict=False):
            assert slope is not None
            adam.step(slope, 1 - progress)
        for share in self.shares:
            share.clamp_(min=0.05)

    def hard(self) -> Tensor:
        return self.values()

    def weight(self) -> Weight:
        values, grid = self._round()
        return stored(values, grid, self.quantizer, self.W)
