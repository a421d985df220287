"""Quantize block by block with what the data say: statistics of the quantized stream, layer after layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowbit import catalog
from lowbit.errors import LowbitError, NonFiniteError, UnsupportedError
from lowbit.nn.capture import Call, calls, first_inputs, of_one_matrix, product_inputs, returns_tuple
from lowbit.nn.graph import block_names, discover
from lowbit.philox import Key
from lowbit.progress import Progress, ProgressCallback
from lowbit.quantizers.weight import Weight
from lowbit.recipes.plan import LayerPlan, Plan, check_finite
from lowbit.recipes.solved import Solved, relative_error
from lowbit.recipes.stream import Stream
from lowbit.solvers.rtn import RTN
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
    """

    unit: Unit
    solved: list[Solved]
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """The data and how to run the model on it.

    Args:
        samples: one sequence (or image) each; run one at a time, in this order.
        forward: runs the whole model on one sample.
    """

    samples: Sequence[Any]
    forward: Callable[[Any], object]


#: unit -> its weights by layer, if they are known from an earlier run
Known = Callable[[Unit], Mapping[str, Weight] | None]
#: makes the parameters of a module available inside (a no-op for models in memory)
Resident = Callable[[str], Any]


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
) -> Iterator[Finished]:
    """Solve the units of a plan in order. When a unit is yielded its layers hold their quantized numbers (dense).

    Inside a block the inputs of each group of products are collected from the block as quantized so far; what follows
    sees the quantized stream. Methods that compare streams get the full-precision one beside it.

    Args:
        known: weights of units that an earlier run finished; they are put in place without solving.
        resident: context manager that holds a block's parameters in memory.
        spill: keep hidden states in files in this folder instead of in memory.

    Raises:
        NonFiniteError: weights, calibration inputs or a block's outputs that are not finite; names the place.
        UnsupportedError: the model cannot be run block by block.
    """
    hold = resident or _always
    todo = units(module, made)
    names = [u.name for u in todo if u.name]
    walk = _Walk(module, names, source, "cross" in made.solver.needs, hold, spill) if names and made.solver.needs else None
    for unit in todo:
        started = time.perf_counter()
        if progress is not None:
            progress(Progress("quantize", unit.index, len(todo), unit.name or "outside the blocks"))
        with hold(unit.name):
            before = None if known is None else known(unit)
            check_finite(unit.layers)
            done = Finished(unit, [])
            two = walk is not None and walk.exact is not None
            originals = {p.name: _weight(p).data for p in unit.layers} if two else {}
            if before is not None:
                for layer in unit.layers:
                    W, Q = layer.target.matrix, before[layer.name].dequantize()
                    done.solved.append(Solved(layer, before[layer.name], relative_error(W, Q)))
                    _put_dense(layer, Q)
            else:
                _solve_unit(module, unit, made, source, walk, originals, seed, done)
            if walk is not None and unit.name:
                walk.advance(unit, originals)
            done.seconds = time.perf_counter() - started
            yield done
    if progress is not None:
        progress(Progress("quantize", len(todo), len(todo)))


class _Walk:
    """The hidden states of all sequences, moved from block to block; one stream, or two side by side."""

    def __init__(self, module: nn.Module, names: list[str], source: Source, two: bool, hold: Resident, spill: Path | None):
        self.blocks = {name: module.get_submodule(name) for name in names}
        first = next(iter(self.blocks.values()))
        sample = source.samples[0]
        with hold(names[0]), hold(""):
            in_tuple = returns_tuple(first, source.forward, sample)
            found = calls(list(self.blocks.values()), source.forward, sample, in_tuple)
            self.calls: dict[str, Call] = dict(zip(names, found, strict=True))
            start = first_inputs(first, source.forward, sample)
            self.quantized = Stream(len(source.samples), start.shape, start.dtype, spill)
            for i, each in enumerate(source.samples):
                hidden = first_inputs(first, source.forward, each)
                if hidden.shape != start.shape:
                    raise UnsupportedError(
                        f"calibration sequence {i} gives a hidden state {tuple(hidden.shape)}, the first one {tuple(start.shape)}; "
                        "use one length"
                    )
                self.quantized[i] = hidden
        self.exact = Stream.like(self.quantized, spill) if two else None

    def run(self, name: str, i: int, exact: bool = False) -> Tensor:
        stream = self.exact if exact else self.quantized
        assert stream is not None
        return self.calls[name].run(self.blocks[name], stream[i])

    def advance(self, unit: Unit, originals: Mapping[str, Tensor]) -> None:
        """Move both streams through a finished block."""
        for i in range(self.quantized.count):
            if self.exact is not None:
                with originals_in(unit.layers, originals):
                    self.exact[i] = self.run(unit.name, i, exact=True)
            out = self.run(unit.name, i)
            if not bool(torch.isfinite(out).all()):
                raise NonFiniteError(f"the output of block {unit.name} is not finite for calibration sequence {i}; finished blocks stay")
            self.quantized[i] = out


def _solve_unit(
    module: nn.Module,
    unit: Unit,
    made: Plan,
    source: Source,
    walk: _Walk | None,
    originals: Mapping[str, Tensor],
    seed: int,
    done: Finished,
) -> None:
    if not made.solver.needs:
        for layer in unit.layers:
            _solve_layer(layer, made, {}, seed, done)
        return
    block = module.get_submodule(unit.name)
    prefix = unit.name + "." if unit.name else ""
    inside = walk is not None and bool(unit.name)

    def run(i: int, exact: bool = False) -> object:
        if inside:
            assert walk is not None
            return walk.run(unit.name, i, exact)
        return source.forward(source.samples[i])

    graph = discover(block, lambda: run(0))
    layers = {p.name.removeprefix(prefix): p for p in unit.layers}
    able = graph.groups(layers.keys() - graph.unsure.keys())
    groups = [group for shared in able for group in of_one_matrix(block, shared)]
    for group in groups:
        stats, tokens, reason = _collect(made, unit, block, group[0], len(source.samples), run, originals, inside)
        for name in group:
            layer = layers[name]
            if stats is None:
                done.warnings.append(f"{layer.name}: {reason}; rounded to nearest")
            elif tokens < layer.shape[1] and name == group[0]:
                done.warnings.append(
                    f"{layer.name}: {tokens} calibration tokens give a Gram matrix of rank {tokens} at most for {layer.shape[1]} inputs; "
                    "use more sequences or a larger damping"
                )
            _solve_layer(layer, made, stats, seed, done)
    for name in sorted(layers.keys() - {n for group in groups for n in group}):
        done.warnings.append(f"{layers[name].name}: {graph.unsure.get(name, 'it did not run')}; rounded to nearest")
        _solve_layer(layers[name], made, None, seed, done)
    order = {p.name: i for i, p in enumerate(unit.layers)}
    done.solved.sort(key=lambda s: order[s.layer.name])


def _collect(
    made: Plan,
    unit: Unit,
    block: nn.Module,
    first: str,
    samples: int,
    run: Callable[..., object],
    originals: Mapping[str, Tensor],
    inside: bool,
) -> tuple[dict[str, Tensor] | None, int, str]:
    """The statistics of one input, over all sequences; None and the reason where that input cannot be collected."""
    product = block.get_submodule(first)
    if isinstance(product, nn.Embedding):
        return None, 0, "the rows of an embedding have no input"
    statistics: dict[str, Statistic] = {name: catalog.find("statistic", name)() for name in made.solver.needs}
    tokens = 0
    for i in range(samples):
        reference = None
        try:
            if "cross" in statistics:
                if not inside:
                    return None, 0, "there is no full-precision stream outside the blocks"
                with originals_in(unit.layers, originals):
                    reference = product_inputs(block, product, lambda i=i: run(i, True))  # type: ignore[misc]
            x = product_inputs(block, product, lambda i=i: run(i))  # type: ignore[misc]
        except UnsupportedError as error:
            return None, 0, str(error)
        for statistic in statistics.values():
            try:
                statistic.update(x, reference=reference)
            except NonFiniteError as error:
                where = f"{unit.name}.{first}" if unit.name else first
                raise NonFiniteError(f"{where}, calibration sequence {i}: {error}") from error
        tokens += len(x)
    return {name: s.value() for name, s in statistics.items()}, tokens, ""


def _solve_layer(layer: LayerPlan, made: Plan, stats: Mapping[str, Tensor] | None, seed: int, done: Finished) -> None:
    W = layer.target.matrix
    key = Key(seed, layer.name)
    solver = RTN() if stats is None else made.solver
    try:
        weight = solver.solve(W, layer.quantizer, stats or {}, key)
    except LowbitError as error:
        raise type(error)(f"layer {layer.name}: {error}") from error
    Q = weight.dequantize()
    done.solved.append(Solved(layer, weight, relative_error(W, Q), output_error(W, Q, (stats or {}).get("gram"))))
    _put_dense(layer, Q)


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


def _weight(layer: LayerPlan) -> Any:
    return layer.target.module.weight


def _put_dense(layer: LayerPlan, Q: Tensor) -> None:
    """A parameter of its own: what was tied to the old one keeps the old numbers."""
    old, module = _weight(layer), layer.target.module
    module.weight = nn.Parameter(Q.reshape(old.shape).to(old.dtype), requires_grad=old.requires_grad)


@contextmanager
def originals_in(layers: Sequence[LayerPlan], originals: Mapping[str, Tensor]) -> Iterator[None]:
    """The layers hold their original weights inside."""
    current = {p.name: _weight(p).data for p in layers}
    for p in layers:
        _weight(p).data = originals[p.name]
    try:
        yield
    finally:
        for p in layers:
            _weight(p).data = current[p.name]


@contextmanager
def _always(name: str) -> Iterator[None]:
    yield
