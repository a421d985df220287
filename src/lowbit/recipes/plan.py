"""The plan: what will be done to every layer, known in seconds and checked before any work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from lowbit.blocks import Blocks
from lowbit.errors import LowbitError, NonFiniteError, ShapeError, UnknownName, UnsupportedError
from lowbit.nn.replace import IGNORE, ONLY, Target, matches, nearest_layer, targets
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme
from lowbit.quantizers.spec import quantizer as parse
from lowbit.quantizers.spec import text
from lowbit.solvers.solver import Solver
from lowbit.solvers.solver import solver as parse_solver
from lowbit.solvers.solver import text as solver_text
from lowbit.transforms.transform import Transform
from lowbit.transforms.transform import text as transform_text
from lowbit.transforms.transform import transform as parse_transform


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
        transforms: applied one after the other before a layer is solved.
    """

    layers: tuple[LayerPlan, ...]
    solver: Solver
    activations: Quantizer | None
    rest_nbytes: int
    original_nbytes: int
    transforms: tuple[Transform, ...] = ()

    @property
    def calibrated(self) -> bool:
        """Whether the run needs data: its solver, or one of its transforms."""
        return self.solver.calibrated or any(step.needs for each in self.transforms for step in each.steps())

    @property
    def method(self) -> str:
        """The transforms and the solver in words: ``quarot + gptq``."""
        return " + ".join([*map(transform_text, self.transforms), solver_text(self.solver)])

    @property
    def held(self) -> tuple[LayerPlan, ...]:
        """The layers without those whose weight another one holds already: tied ones that are quantized alike."""
        first: dict[tuple[int, ...], LayerPlan] = {}
        for i, layer in enumerate(self.layers):
            alone = self.calibrated or bool(self.transforms) or getattr(getattr(layer.quantizer, "rounding", None), "noisy", False)
            first.setdefault((i,) if alone else (id(layer.target.module.weight), id(layer.quantizer)), layer)
        return tuple(first.values())

    @property
    def elements(self) -> int:
        """Weights that will be quantized."""
        return sum(torch.Size(p.shape).numel() for p in self.held)

    @property
    def packed_nbytes(self) -> int:
        """Bytes of the quantized weights, scales included."""
        return sum(p.nbytes for p in self.held)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole model after quantization."""
        return self.packed_nbytes + self.rest_nbytes

    @property
    def bits(self) -> float:
        """True bits a quantized weight, scales included."""
        return 8 * self.packed_nbytes / max(1, self.elements)

    @property
    def original_bits(self) -> float:
        """Bits each of these weights has in the model as loaded."""
        weights = [p.target.matrix for p in self.held]
        return 8 * sum(w.numel() * w.element_size() for w in weights) / max(1, self.elements)

    @property
    def peak_nbytes(self) -> int:
        """Bytes that quantization needs at most: the loaded model, its packed layers, and the work on the largest layer."""
        largest = max(torch.Size(p.shape).numel() for p in self.layers)
        return self.original_nbytes + self.packed_nbytes + 24 * largest

    def recipe(self) -> dict[str, object]:
        """For the manifest: what was done, in words that parse back."""
        specs = {p.name: text(p.quantizer) for p in self.layers}
        usual = Counter(specs.values()).most_common(1)[0][0]
        return {
            "weights": usual,
            "overrides": {n: s for n, s in specs.items() if s != usual},
            "activations": None if self.activations is None else text(self.activations),
            "transforms": [transform_text(t) for t in self.transforms],
            "solver": solver_text(self.solver),
        }


def plan(
    model: nn.Module,
    weights: str | Quantizer,
    solver: str | Solver = "rtn",
    *,
    transforms: Sequence[str | Transform] = (),
    activations: str | Quantizer | None = None,
    only: Sequence[str] = ONLY,
    ignore: Sequence[str] = IGNORE,
    override: Mapping[str, str | Quantizer] | None = None,
) -> Plan:
    """Decide for every layer how it is stored, and refuse what cannot work.

    Args:
        weights: the quantizer of all chosen layers.
        transforms: in the order in which they are applied.
        only, ignore: class names, globs on layer names, or ``re:`` and a regular expression.
        override: pattern -> quantizer for the layers that it matches; the last match wins.

    Raises:
        ShapeError: blocks do not divide a layer or its inputs: named, with a spec that works.
        UnknownName: a pattern that matches nothing.
        SpecError: a spec string that cannot be parsed.
        UnsupportedError: activations that need noise, or a transform about activations that are not quantized.
    """
    usual, method = parse(weights), parse_solver(solver)
    changes = tuple(parse_transform(t) for t in transforms)
    special = {pattern: parse(spec) for pattern, spec in (override or {}).items()}
    chosen = targets(model, only, ignore)
    for pattern in special:
        if not any(matches(pattern, t.name, t.module) for t in chosen):
            hint = nearest_layer(pattern, [t.name for t in chosen])
            raise UnknownName(f"--override {pattern!r} matches none of the {len(chosen)} chosen layers{hint}")
    sources = [next((p for p in reversed(special) if matches(p, t.name, t.module)), None) for t in chosen]
    quantizers = [usual if source is None else special[source] for source in sources]
    layers = []
    for target, quantizer, source in zip(chosen, quantizers, sources, strict=True):
        shape = tuple(target.matrix.shape)
        try:
            layers.append(LayerPlan(target, quantizer, method.nbytes(quantizer, shape)))
        except ShapeError as error:
            same = [t for t, s in zip(chosen, sources, strict=True) if s == source]
            remedy = _remedy(quantizer, same, "--weights '" if source is None else f"--override '{source}=")
            unfit = [t.name for t in same if not _fits(quantizer, t)]
            if len(unfit) <= 3 and len(unfit) < len(chosen):
                kept = [p for p in ignore if any(matches(p, n, m) for n, m in model.named_modules())]
                remedy += ";" + "".join(f" --ignore '{name}'" for name in (*kept, *unfit)) + " leaves it as it is"
            raise ShapeError(f"layer {target.name} of shape {shape}: {error}{remedy}") from None
    _check_transforms(changes, chosen)
    idle = [each for each in changes if activations is None and any(step.of_inputs for step in each.steps())]
    if idle:
        raise UnsupportedError(f"{transform_text(idle[0])} is about quantized inputs, and they stay as they are; name their --activations")
    inputs = None if activations is None else _check_inputs(parse(activations), chosen)
    replaced = {id(t.module) for t in chosen}
    elsewhere = {id(getattr(m, "weight", None)) for m in model.modules() if id(m) not in replaced}
    packed = {id(t.module.weight) for t in chosen} - elsewhere
    tensors = {id(t): t for t in [*model.parameters(), *_saved_buffers(model)]}
    others = {_place(p): p for p in tensors.values() if id(p) not in packed}
    distinct = {_place(p): p for p in tensors.values()}
    return Plan(
        tuple(layers),
        method,
        inputs,
        sum(p.numel() * p.element_size() for p in others.values()),
        sum(p.numel() * p.element_size() for p in distinct.values()),
        changes,
    )


def _place(tensor: torch.Tensor) -> int:
    """What tells tensors apart: their memory, or themselves where they have none."""
    return id(tensor) if tensor.device.type == "meta" else tensor.data_ptr()


def _saved_buffers(model: nn.Module) -> list[torch.Tensor]:
    state = model.state_dict(keep_vars=True)
    return [b for n, b in model.named_buffers() if n in state]


def _check_transforms(transforms: Sequence[Transform], chosen: Sequence[Target]) -> None:
    for each in transforms:
        for step in each.steps():
            for target in chosen:
                if isinstance(target.module, nn.Linear):
                    try:
                        step.check(target.module.in_features)
                    except ShapeError as error:
                        raise ShapeError(f"{transform_text(each)} in front of {target.name}: {error}") from None


def _check_inputs(quantizer: Quantizer, chosen: Sequence[Target]) -> Quantizer:
    rounding = getattr(quantizer, "rounding", None)
    if getattr(rounding, "noisy", False):
        raise UnsupportedError("--activations with a rounding that draws noise, which layers do not do; take another rounding")
    for target in chosen:
        if isinstance(target.module, nn.Linear):
            n = target.module.in_features
            try:
                quantizer.nbytes((1, n))
            except ShapeError as error:
                raise ShapeError(f"--activations does not fit the {n} inputs of layer {target.name}: {error}") from None
    return quantizer


def _fits(quantizer: Quantizer, target: Target) -> bool:
    try:
        quantizer.nbytes(tuple(target.matrix.shape))
    except ShapeError:
        return False
    return True


def _remedy(quantizer: Quantizer, chosen: Sequence[Target], option: str) -> str:
    """The option with the nearest spec string that fits every layer, or nothing where none is found."""
    for candidate in _smaller(quantizer):
        if all(_fits(candidate, t) for t in chosen):
            try:
                return f"; {option}{text(candidate)}' fits"
            except LowbitError:  # no words for it
                continue
    return ""


def _smaller(quantizer: Quantizer) -> Iterator[Quantizer]:
    """The same scheme with smaller blocks, down to 16, then with ragged ones."""
    if not isinstance(quantizer, Scheme) or quantizer.blocks.size is None:
        return
    size = quantizer.blocks.size
    while isinstance(size, tuple) and len(size) == 1 and size[0] >= 32:
        size = (size[0] // 2,)
        yield replace(quantizer, blocks=Blocks(size))
    yield replace(quantizer, blocks=replace(quantizer.blocks, ragged=True))


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
                leave = f"--ignore lm_head --ignore {each.name}"
                raise NonFiniteError(f"{each.name}.weight holds {nan} NaN and {inf} Inf; repair the model, or leave the layer out: {leave}")


__all__ = ["LayerPlan", "Plan", "check_finite", "plan"]
