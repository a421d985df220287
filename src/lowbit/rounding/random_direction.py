"""Random direction: up or down with equal probability, whatever the share of the gap (CADNA)."""

from __future__ import annotations

from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import UnsupportedError
from lowbit.rounding.rounding import Gap, Rounding

VIGNES = Source(
    "A stochastic arithmetic for reliable scientific computation",
    "Vignes",
    1993,
    "Mathematics and Computers in Simulation 35(3)",
    parts="the random rounding of the CESTAC method; rounding modes 6 and 10 of Pychop (arXiv:2504.07835)",
    records=("pychop",),
)


def _up(gap: Gap, noise: Tensor | None) -> Tensor:
    if noise is None:
        raise UnsupportedError("random_direction rounding needs noise; pass noise=lowbit.philox.noise(Key(seed), x.shape)")
    return noise >= 1 << 31


random_direction = register("rounding", "random_direction", VIGNES, aliases=("cadna",))(
    Rounding("random_direction", _up, noisy=True, bias=0.5)
)
