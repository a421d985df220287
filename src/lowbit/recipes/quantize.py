"""Quantize a model: every chosen layer goes through the solver and is replaced by its packed version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowbit.errors import UnsupportedError
from lowbit.nn.packed import PackedWeight, keep_dense
from lowbit.nn.replace import IGNORE, ONLY, packed_module, put
from lowbit.philox import Key
from lowbit.progress import Progress, ProgressCallback
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.recipes.plan import LayerPlan, Plan, check_finite, plan
from lowbit.solvers.solver import Solver


@dataclass(frozen=True)
class Solved:
    """One solved layer.

    Attributes:
        error: ||W - Q||^2 / ||W||^2, a share.
    """

    layer: LayerPlan
    weight: Weight
    error: float

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise of the weight, in dB."""
        return float("inf") if self.error == 0 else float(-10 * torch.log10(torch.tensor(self.error, dtype=torch.float64)))


def solve(made: Plan, seed: int = 0, progress: ProgressCallback | None = None) -> Iterator[Solved]:
    """The layers of a plan one after the other, solved but not yet put in place.

    Raises:
        NonFiniteError: a weight holds NaN or Inf; before any layer is solved.
        UnsupportedError: the solver needs data.
    """
    if made.solver.needs:
        raise UnsupportedError(f"the solver {made.solver} needs calibration data ({', '.join(made.solver.needs)}); this recipe has none")
    check_finite(made.layers)
    for i, layer in enumerate(made.layers):
        if progress is not None:
            progress(Progress("quantize", i, len(made.layers), layer.name))
        W = layer.target.matrix
        weight = made.solver.solve(W, layer.quantizer, {}, Key(seed, layer.name))
        yield Solved(layer, weight, relative_error(W, weight.dequantize()))
    if progress is not None:
        progress(Progress("quantize", len(made.layers), len(made.layers), ""))


def relative_error(W: Tensor, Q: Tensor) -> float:
    """||W - Q||^2 / ||W||^2 in float32 sums."""
    W = W.float()
    return float((W - Q).square().sum() / W.square().sum().clamp(min=torch.finfo(torch.float32).tiny))


def quantize(
    model: Any,
    weights: str | Quantizer = "nvfp4",
    *,
    solver: str | Solver = "rtn",
    activations: str | Quantizer | None = None,
    only: Sequence[str] = ONLY,
    ignore: Sequence[str] = IGNORE,
    override: Mapping[str, str | Quantizer] | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Any:
    """Quantize a model in place and return it: ``lowbit.quantize(model, weights="nvfp4")``.

    Args:
        model: any ``torch.nn.Module``, or a language model of ``lowbit.models``.
        weights: a spec string or quantizer for every chosen layer.
        solver: which codes a weight gets; ``rtn`` needs no data.
        activations: a quantizer for the inputs of the chosen linear layers; None leaves them.
        only, ignore: class names, globs on layer names, or ``re:`` and a regular expression; ``lm_head`` is kept by default.
        override: pattern -> quantizer, for layers that differ.
        seed: of stochastic roundings.
        progress: called with every ``Progress`` event.

    Raises:
        LowbitError: something does not fit; nothing has been changed then.
    """
    module: nn.Module = model if isinstance(model, nn.Module) else model.module
    made = plan(module, weights, solver, activations=activations, only=only, ignore=ignore, override=override)
    for solved in solve(made, seed, progress):
        put(module, solved.layer.name, packed_module(solved.layer.target.module, PackedWeight.of(solved.weight), made.activations))
    keep_dense(module)
    return model
