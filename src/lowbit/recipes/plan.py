"""The plan: what will be done to every layer, known in seconds and checked before any work."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lowbit.errors import NonFiniteError, ShapeError, UnknownName
from lowbit.nn.replace import IGNORE, ONLY, Target, matches, targets
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.spec import quantizer as parse
from lowbit.quantizers.spec import text
from lowbit.solvers.solver import Solver
from lowbit.solvers.solver import solver as parse_solver
from lowbit.solvers.solver import text as solver_text


@dataclass(frozen=True)
class LayerPlan:
    """One layer: what it is, how it will be stored, what that takes."""

    target: Target
    quantizer: Quantizer
    nbytes: int

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight as a matrix, (out, in)."""
        return tuple(self.target.matrix.shape)

    @property
    def bits(self) -> float:
        """True bits a weight, scales included."""
        return 8 * self.nbytes / max(1, torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Plan:
    """What will be done, layer by layer, and what the model then takes.

    Attributes:
        rest_nbytes: bytes of every other tensor, tied ones counted once.
        original_nbytes: bytes of the model as loaded, tied tensors counted once.
    """

    layers: tuple[LayerPlan, ...]
    solver: Solver
    activations: Quantizer | None
    rest_nbytes: int
    original_nbytes: int

    @property
    def elements(self) -> int:
        """Weights that will be quantized."""
        return sum(torch.Size(p.shape).numel() for p in self.layers)

    @property
    def packed_nbytes(self) -> int:
        """Bytes of the quantized weights, scales included."""
        return sum(p.nbytes for p in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole model after quantization."""
        return self.packed_nbytes + self.rest_nbytes

    @property
    def bits(self) -> float:
        """True bits a quantized weight, scales included."""
        return 8 * self.packed_nbytes / max(1, self.elements)

    @property
    def peak_nbytes(self) -> int:
        """Bytes that quantization needs at most: the loaded model, its packed layers, and the work on the largest layer."""
        largest = max(torch.Size(p.shape).numel() for p in self.layers)
        return self.original_nbytes + self.packed_nbytes + 24 * largest

    def recipe(self) -> dict[str, object]:
        """For the manifest: what was done, in words that parse back."""
        specs = {p.name: text(p.quantizer) for p in self.layers}
        usual = max(set(specs.values()), key=list(specs.values()).count)
        return {
            "weights": usual,
            "overrides": {n: s for n, s in specs.items() if s != usual},
            "activations": None if self.activations is None else text(self.activations),
            "solver": solver_text(self.solver),
        }


def plan(
    model: nn.Module,
    weights: str | Quantizer,
    solver: str | Solver = "rtn",
    *,
    activations: str | Quantizer | None = None,
    only: Sequence[str] = ONLY,
    ignore: Sequence[str] = IGNORE,
    override: Mapping[str, str | Quantizer] | None = None,
) -> Plan:
    """Decide for every layer how it is stored, and refuse what cannot work.

    Args:
        weights: the quantizer of all chosen layers.
        only, ignore: class names, globs on layer names, or ``re:`` and a regular expression.
        override: pattern -> quantizer for the layers that it matches; the last match wins.

    Raises:
        ShapeError: blocks do not divide a layer: named, with a spec that works.
        UnknownName: a pattern that matches nothing.
        SpecError: a spec string that cannot be parsed.
    """
    usual = parse(weights)
    special = {pattern: parse(spec) for pattern, spec in (override or {}).items()}
    chosen = targets(model, only, ignore)
    for pattern in special:
        if not any(matches(pattern, t.name, t.module) for t in chosen):
            raise UnknownName(f"the override {pattern!r} matches none of the {len(chosen)} chosen layers")
    layers = []
    for target in chosen:
        quantizer = usual
        for pattern, other in special.items():
            if matches(pattern, target.name, target.module):
                quantizer = other
        shape = tuple(target.matrix.shape)
        try:
            layers.append(LayerPlan(target, quantizer, quantizer.nbytes(shape)))
        except ShapeError as error:
            raise ShapeError(f"layer {target.name} of shape {shape}: {error}{_remedy(quantizer, chosen, override is not None)}") from None
    packed = {id(t.module.weight) for t in chosen}
    tensors = {id(t): t for t in [*model.parameters(), *_saved_buffers(model)]}
    kept = {p.data_ptr(): p for p in tensors.values() if id(p) not in packed or _shared(model, p, chosen)}
    distinct = {p.data_ptr(): p for p in tensors.values()}
    return Plan(
        tuple(layers),
        parse_solver(solver),
        None if activations is None else parse(activations),
        sum(p.numel() * p.element_size() for p in kept.values()),
        sum(p.numel() * p.element_size() for p in distinct.values()),
    )


def _saved_buffers(model: nn.Module) -> list[torch.Tensor]:
    state = model.state_dict(keep_vars=True)
    return [b for n, b in model.named_buffers() if n in state]


def _shared(model: nn.Module, parameter: torch.Tensor, chosen: Sequence[Target]) -> bool:
    """Whether a chosen layer's weight also serves a module that keeps it."""
    names = {t.name for t in chosen}
    return any(getattr(m, "weight", None) is parameter for n, m in model.named_modules() if n not in names)


def _remedy(quantizer: Quantizer, chosen: Sequence[Target], overridden: bool) -> str:
    """A spec string that fits every layer, if a smaller group does."""
    words = text(quantizer)
    match = re.search(r"\bg(\d+)\b", words)
    if match is None:
        return ""
    group = int(match[1])
    while group > 1 and any(t.matrix.shape[1] % group for t in chosen):
        group //= 2
    where = "; or leave the layer out: --ignore with its name"
    return f"; --weights '{words.replace(match[0], f'g{group}')}' fits every layer" + where if group > 1 else where


def check_finite(layers: Sequence[LayerPlan]) -> None:
    """Refuse weights that hold NaN or Inf.

    Raises:
        NonFiniteError: names the tensor and counts.
    """
    for each in layers:
        W = each.target.matrix
        if not bool(torch.isfinite(W.sum(dtype=torch.float64))):
            nan, inf = int(torch.isnan(W).sum()), int(torch.isinf(W).sum())
            if nan or inf:
                raise NonFiniteError(f"{each.name}.weight holds {nan} NaN and {inf} Inf; repair the model, or leave the layer out with --ignore {each.name}")


__all__ = ["LayerPlan", "Plan", "check_finite", "plan"]
