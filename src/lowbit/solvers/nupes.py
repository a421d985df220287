"""NUPES: the exponent of a power format is learned, layer by layer, for the least error of the layer's output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import register
from lowbit.errors import UnsupportedError
from lowbit.formats.nupes import YVINEC, Power, power
from lowbit.philox import Key
from lowbit.quantizers.best import Best
from lowbit.quantizers.grid import QTensor, dense
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme
from lowbit.quantizers.weight import Weight
from lowbit.scaling.scaling import fixed_sum
from lowbit.solvers.solver import Solver
from lowbit.threads import one_thread

#: what is left of a step after each
DECAY = 0.8
#: exponents that are learned, between those that the search of the quantizer knows
LEAST, MOST = 0.1, 1.0
#: below every share of a maximum that matters; its logarithm is finite
SMALL = 1e-300


@register("solver", "nupes", YVINEC)
@dataclass(frozen=True)
class NUPES(Solver):
    """Descent in a of tr(E H E^T), E = deq(Q_a(W)) - W, from the best of the quantizer's exponents; the best a on the way is kept.

    A number |w| / m = r has the power u = r^a, is rounded to p = |q| / L and read back as v = m sgn(w) p^(1/a). Straight through the
    rounding, whose error p - u is held, dv/da = v (u ln(r) / p - ln(p) / a) / a, and 0 where p is 0. (With the codes held instead the
    derivative would miss those that change, which are most of it.) A step goes ``step`` * 0.8^t against the sign of the derivative.

    Args:
        steps: how often the exponent is moved, at least once.
        step: the first one, in (0, 1).

    Raises:
        UnsupportedError: the quantizer's numbers are not those of a power format (power4_0.7 row, nupes4), or steps that do not fit.
    """

    needs: ClassVar[tuple[str, ...]] = ("gram",)
    steps: int = 20
    step: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.step < 1:
            raise UnsupportedError(f"nupes:steps={self.steps}:step={self.step:g}: at least one step, and a first one in (0, 1)")

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        """A weight (out, in) and its Gram matrix (in, in) to the codes with the least output error that the exponents tried give.

        Raises:
            UnsupportedError: the quantizer has no exponent to move.
        """
        W, H = W.float(), stats["gram"].double()
        with one_thread():
            trials = [_trial(W, scheme, H) for scheme in _schemes(quantizer)]
            best = current = min(trials, key=lambda t: t.lost)
            for t in range(self.steps):
                a = current.exponent - math.copysign(self.step * DECAY**t, current.slope)
                a = round(min(max(a, LEAST), MOST), 4)
                if a == current.exponent:
                    continue
                current = _trial(W, replace(current.scheme, format=power(current.scheme.format.bits, a)), H)
                best = min(best, current, key=lambda t: t.lost)
        return Weight((best.q,), (best.scheme,))

    def nbytes(self, quantizer: Quantizer, shape: tuple[int, ...]) -> int:
        """Bytes of one power scheme; the exponent is part of the format."""
        return _schemes(quantizer)[0].nbytes(shape)


@dataclass(frozen=True, eq=False)
class Trial:
    """The weight under one exponent: what its outputs lose, and how that changes with the exponent, straight through the rounding."""

    scheme: Scheme
    q: QTensor
    exponent: float
    lost: float
    slope: float


def _trial(W: Tensor, scheme: Scheme, H: Tensor) -> Trial:
    fmt = scheme.format
    q = scheme.quantize(W)
    assert isinstance(fmt, Power) and q.grid.scale is not None
    values = q.dequantize().double()
    error = values - W.double()
    weighed = error @ H
    a, scale = fmt.exponent, dense(q.grid.scale).double()
    p = fmt.decode(q.codes).double().abs() ** a
    r = (W.double().abs() / scale.clamp(min=SMALL)).clamp(min=SMALL)
    held = p.clamp(min=SMALL)
    moved = torch.where(p > 0, values * (r**a * r.log() / held - held.log() / a) / a, 0.0)
    total = fixed_sum(fixed_sum(weighed * error))
    return Trial(scheme, q, a, float(total), float(2 * fixed_sum(fixed_sum(weighed * moved))))


def _schemes(quantizer: Quantizer) -> tuple[Scheme, ...]:
    options = quantizer.options if isinstance(quantizer, Best) else (quantizer,)
    found = tuple(o for o in options if isinstance(o, Scheme) and isinstance(o.format, Power))
    if len(found) != len(options):
        raise UnsupportedError(f"nupes learns the exponent of power formats, {options[0]} has none; use nupes4 or power4_0.7 row")
    return found
