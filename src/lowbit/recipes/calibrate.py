"""Quantize block by block with what the data say: statistics of the quantized stream, layer after layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lowbit import catalog
from lowbit.errors import LowbitError, NonFiniteError, UnsupportedError
from lowbit.nn.capture import of_one_matrix
from lowbit.nn.graph import block_names, discover
from lowbit.nn.replay import available_bytes
from lowbit.philox import Key
from lowbit.progress import Progress, ProgressCallback
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.recipes.plan import LayerPlan, Plan, check_finite
from lowbit.recipes.solved import Solved, relative_error
from lowbit.recipes.transforming import Edits, Stretch, Transforming
from lowbit.recipes.tune import tuned
from lowbit.recipes.walk import Passes, Resident, Source, Walk, always
from lowbit.solvers.block_solver import BlockSolver
from lowbit.solvers.rtn import RTN
from lowbit.solvers.solver import text as solver_text
from lowbit.statistics.statistic import Statistic


@dataclass(frozen=True)
class Unit:
    """One restartable piece of work: the layers of a block, or those outside of all blocks.

    Args:
        index: the number of the unit.
        name: the block's name; empty for the layers outside.
        layers: in the order of the plan.
    """

    index: int
    name: str
    layers: tuple[LayerPlan, ...]


@dataclass
class Finished:
    """A unit with its layers solved.

    Args:
        seconds: wall-clock time of the unit.
        warnings: one line each.
        figures: layer -> what is measured of it, by name.
        biases: layer -> its bias, where that is another one than before.
        inputs: layer -> the quantizer of its inputs, where that is not the plan's.
    """

    unit: Unit
    solved: list[Solved]
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Quantizer] = field(default_factory=dict)


class Before(NamedTuple):
    """What is known of a unit from an earlier run: its weights by layer, and the biases that were changed."""

    weights: Mapping[str, Weight]
    biases: Mapping[str, Tensor]


#: unit -> what is known of it, or None
Known = Callable[[Unit], Before | None]


def merged(warnings: Iterable[str]) -> list[str]:
    """Warnings ``layer: reason`` with one line a reason: the first layer and how many others it holds for."""
    layers: dict[str, list[str]] = {}
    for warning in warnings:
        layer, _, reason = warning.partition(": ")
        layers.setdefault(reason, []).append(layer)
    more = {reason: f" and {len(names) - 1} more" * (len(names) > 1) for reason, names in layers.items()}
    return [f"{names[0]}{more[reason]}: {reason}" for reason, names in layers.items()]


def units(module: nn.Module, made: Plan) -> list[Unit]:
    """The units of a plan: one a block that has layers to quantize, then one for what lies outside."""
    blocks = block_names(module)
    found: list[Unit] = []
    inside: set[str] = set()
    for name in blocks:
        layers = tuple(p for p in made.layers if p.name.startswith(name + "."))
        inside |= {p.name for p in layers}
        found.append(Unit(len(found), name, layers))
    outside = tuple(p for p in made.layers if p.name not in inside)
    if outside:
        found.append(Unit(len(found), "", outside))
    return found


def calibrate(
    module: nn.Module,
    made: Plan,
    source: Source,
    *,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    known: Known | None = None,
    resident: Resident | None = None,
    spill: Path | None = None,
    room: int | None = None,
    edits: Edits | None = None,
) -> Iterator[Finished]:
    """Solve the units of a plan in order. When a unit is yielded its layers hold their quantized numbers (dense).

    Transforms come first in each block; afterwards what they have done beside the weights stays in the model, and is noted in ``edits``.

    Inside a block the inputs of each group of products are collected from the block as quantized so far; what follows
    sees the quantized stream. Methods that compare streams get the full-precision one beside it.

    Args:
        known: weights of units that an earlier run finished; they are put in place without solving.
        resident: context manager that holds a block's parameters in memory; None for models that are there.
        spill: keep hidden states in files in this folder instead of in memory.
        room: bytes for results inside a block that are kept while its products are replaced, which saves running it several times; by
            default half of what the system has left. The bytes of the result do not depend on it.
        edits: of this model, to be undone by who calls.

    Raises:
        NonFiniteError: weights, calibration inputs or a block's outputs that are not finite; names the place.
        UnsupportedError: the model cannot be run block by block.
    """
    hold = resident or always
    space = available_bytes() // 2 if room is None else room
    todo = units(module, made)
    names = [u.name for u in todo if u.name]
    two = made.solver.two_streams
    together = isinstance(made.solver, BlockSolver)
    changed = Edits(module) if edits is None else edits
    transforming = Transforming(module, made.transforms, made.activations, seed, changed)
    transforming.start()
    walk = Walk(module, names, source, two, hold, spill) if names and (made.calibrated or made.transforms) else None
    for unit in todo:
        started = time.perf_counter()
        if progress is not None:
            progress(Progress("quantize", unit.index, len(todo), unit.name or "outside the blocks"))
        with hold(unit.name, head=not unit.name):
            before = None if known is None else known(unit)
            check_finite(unit.layers)
            done = Finished(unit, [], inputs=transforming.inputs)
            if made.transforms and (unit.name or not names):
                stretch = _stretch(module, unit, source, walk)
                done.warnings += transforming.apply(stretch, {_inside(unit, p.name): p for p in unit.layers})
            originals: dict[str, Tensor] = {}
            if two or together:
                originals = {p.name: p.target.module.weight.data for p in unit.layers}  # type: ignore[misc]
            passes = None
            if before is not None:
                for layer in unit.layers:
                    W, Q = layer.target.matrix, before.weights[layer.name].dequantize()
                    done.solved.append(Solved(layer, before.weights[layer.name], relative_error(W, Q)))
                    put_dense(layer, Q)
                for name, bias in before.biases.items():
                    _put_bias(name, bias, changed, done)
            else:
                passes = (
                    _passes(module, unit, source, walk, originals, space, streamed=resident is not None) if made.solver.calibrated else None
                )
                _solve_unit(unit, made, passes, seed, done, changed)
                if isinstance(made.solver, BlockSolver):
                    _solve_together(unit, made.solver, passes, walk, seed, done)
            if walk is not None and unit.name:
                (passes or _passes(module, unit, source, walk, originals, 0)).end(walk, unit.name)
            passes = None
            done.seconds = time.perf_counter() - started
            yield done
    if progress is not None:
        progress(Progress("quantize", len(todo), len(todo)))


def _inside(unit: Unit, layer: str) -> str:
    """The name of a layer in its block."""
    return layer.removeprefix(unit.name + ".") if unit.name else layer


def _stretch(module: nn.Module, unit: Unit, source: Source, walk: Walk | None) -> Stretch:
    def run(i: int) -> object:
        return walk.run(unit.name, i) if walk is not None and unit.name else source.forward(source.samples[i])

    return Stretch(module.get_submodule(unit.name), unit.name, run, len(source.samples))


def _passes(
    module: nn.Module, unit: Unit, source: Source, walk: Walk | None, originals: Mapping[str, Tensor], room: int, streamed: bool = False
) -> Passes:
    """How the unit is run: its block on the streams, or the model on the samples for what lies outside of the blocks."""
    layers = {_inside(unit, p.name): p for p in unit.layers}

    def run(i: int, exact: bool = False) -> object:
        if walk is not None and unit.name:
            return walk.run(unit.name, i, exact)
        return source.forward(source.samples[i]) if walk is None or not streamed else walk.run_outside(i)

    inside = walk is not None and bool(unit.name)
    exact = inside and walk is not None and walk.exact is not None
    return Passes(module.get_submodule(unit.name), run, layers, len(source.samples), room, originals, exact)


def _solve_together(unit: Unit, solver: BlockSolver, passes: Passes | None, walk: Walk | None, seed: int, done: Finished) -> None:
    """Go on from the layers as solved one by one."""
    if walk is None or passes is None or not unit.name:
        by = solver_text(solver.start)
        done.warnings += [
            f"{p.name}: {solver_text(solver)} solves blocks, and this layer lies in none; solved by {by}" for p in unit.layers
        ]
    elif unit.layers:
        done.solved = tuned(unit.name, solver, done.solved, passes, walk, seed)
        for solved in done.solved:
            put_dense(solved.layer, solved.weight.dequantize())


def _solve_unit(unit: Unit, made: Plan, passes: Passes | None, seed: int, done: Finished, changed: Edits) -> None:
    """Each layer for itself; those of a block in the order in which they run."""
    if isinstance(made.solver, BlockSolver):
        made = replace(made, solver=made.solver.start)
    if passes is None or not made.solver.needs:
        for each in unit.layers:
            _solve_layer(each, made, {}, seed, done, changed)
        return
    block, layers = passes.block, passes.layers
    graph = discover(block, lambda: passes.run(0))
    able = graph.groups(layers.keys() - graph.unsure.keys())
    groups = [group for shared in able for group in of_one_matrix(block, shared)]
    passes.record([group[0] for group in groups])
    for group in groups:
        stats, tokens, reason = _collect(made, unit, passes, group[0])
        for name in group:
            layer = layers[name]
            if stats is None:
                done.warnings.append(f"{layer.name}: {reason}; rounded to nearest")
            elif "gram" in stats and tokens < layer.shape[1] and name == group[0]:
                done.warnings.append(
                    f"{layer.name}: {tokens} calibration tokens give a Gram matrix of rank {tokens} at most for {layer.shape[1]} inputs; "
                    "use more sequences or a larger damping"
                )
            _solve_layer(layer, made, stats, seed, done, changed)
        passes.replay.settle(group)
    left = sorted(layers.keys() - {n for group in groups for n in group})
    for name in left:
        done.warnings.append(f"{layers[name].name}: {graph.unsure.get(name, 'it did not run')}; rounded to nearest")
        _solve_layer(layers[name], made, None, seed, done, changed)
    if left:  # they may run before what has been kept
        passes.replay.forget()
        passes.replay.settle(left)
    order = {p.name: i for i, p in enumerate(unit.layers)}
    done.solved.sort(key=lambda s: order[s.layer.name])


def _collect(made: Plan, unit: Unit, passes: Passes, first: str) -> tuple[dict[str, Tensor] | None, int, str]:
    """The statistics of one input, over all sequences; None and the reason where that input cannot be collected."""
    if isinstance(passes.block.get_submodule(first), nn.Embedding):
        return None, 0, "the rows of an embedding have no input"
    statistics: dict[str, Statistic] = {name: catalog.find("statistic", name)() for name in made.solver.needs}
    if "cross" in statistics and not passes.exact:
        return None, 0, "there is no full-precision stream outside the blocks"
    tokens = 0
    for i in range(passes.count):
        try:
            x, reference = passes.inputs(first, i)
        except UnsupportedError as error:
            return None, 0, str(error)
        for statistic in statistics.values():
            try:
                statistic.update(x, reference=reference)
            except NonFiniteError as error:
                where = f"{unit.name}.{first}" if unit.name else first
                raise NonFiniteError(f"layer {where}, calibration sequence {i}: {error}") from error
        tokens += len(x)
    return {name: s.value() for name, s in statistics.items()}, tokens, ""


def _solve_layer(layer: LayerPlan, made: Plan, stats: Mapping[str, Tensor] | None, seed: int, done: Finished, changed: Edits) -> None:
    W = layer.target.matrix
    key = Key(seed, layer.name)
    solver = RTN() if stats is None else made.solver
    try:
        weight = solver.solve(W, layer.quantizer, stats or {}, key)
    except LowbitError as error:
        raise type(error)(f"layer {layer.name}: {error}") from error
    Q = weight.dequantize()
    shift = None if stats is None else solver.bias(W, Q, stats)
    done.solved.append(Solved(layer, weight, relative_error(W, Q), output_error(W, Q, (stats or {}).get("gram"))))
    put_dense(layer, Q)
    if shift is not None:
        module: Any = layer.target.module
        _put_bias(layer.name, (shift if module.bias is None else shift + module.bias.data).to(module.weight.dtype), changed, done)


def _put_bias(layer: str, bias: Tensor, changed: Edits, done: Finished) -> None:
    changed.set(layer, "bias", bias)
    done.biases[layer] = bias


def output_error(W: Tensor, Q: Tensor, H: Tensor | None) -> float | None:
    """||(W - Q) X||^2 / ||W X||^2 on the calibration data, from the Gram matrix; None without one."""
    if H is None:
        return None
    W = W.float()
    lost = whole = 0.0
    for rows in range(0, H.shape[0], 1024):  # in slices: a float32 copy of a large H is too much memory
        part = H[:, rows : rows + 1024].float()
        D = W - Q
        lost += float(((D @ part) * D[:, rows : rows + 1024]).sum(dtype=torch.float64))
        whole += float(((W @ part) * W[:, rows : rows + 1024]).sum(dtype=torch.float64))
    return lost / max(whole, 1e-300)


def put_dense(layer: LayerPlan, Q: Tensor) -> None:
    """A parameter of its own: what was tied to the old one keeps the old numbers."""
    module: Any = layer.target.module
    old = module.weight
    module.weight = nn.Parameter(Q.reshape(old.shape).to(old.dtype), requires_grad=old.requires_grad)
