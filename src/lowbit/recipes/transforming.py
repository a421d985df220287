"""Transforms in a model, block by block: fitted on what flows through a block, then absorbed by its layers or computed in front of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowbit import catalog
from lowbit.errors import LowbitError, NonFiniteError, UnsupportedError
from lowbit.nn.change import attach, channel_dim, detach
from lowbit.nn.edges import Junction, gain_at_rest, is_norm, junctions, passes
from lowbit.nn.graph import Graph, block_names, discover
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.recipes.plan import LayerPlan
from lowbit.statistics.statistic import Statistic
from lowbit.transforms.transform import Change, Edge, Scaled, StreamTransform, Transform, text

#: the largest difference of a block's results before and after its transforms, as a share of their norm
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}


class Edits:
    """What transforms have changed in a model.

    Args:
        planned: names of layers whose weights are stored quantized.
        undoable: whether it can be undone, for which the original numbers are held.

    Attributes:
        tensors: name of a parameter -> its new numbers, without the weights of planned layers.
    """

    def __init__(self, model: nn.Module, planned: Iterable[str] = (), *, undoable: bool = True):
        self.model, self.undoable = model, undoable
        self.planned = {f"{name}.weight" for name in planned}
        self.tensors: dict[str, Tensor] = {}
        self._back: list[Callable[[], object]] = []

    def set(self, layer: str, parameter: str, value: Tensor) -> None:
        """A parameter of a layer gets other numbers, or is there at all. What was tied to it keeps the old ones."""
        module: Any = self.model.get_submodule(layer)
        old = module._parameters.get(parameter)
        setattr(module, parameter, nn.Parameter(value.detach(), requires_grad=False if old is None else old.requires_grad))
        if f"{layer}.{parameter}" not in self.planned:
            self.tensors[f"{layer}.{parameter}"] = value.detach()
        if self.undoable:
            self._back.append(lambda: setattr(module, parameter, old))

    def attach(self, layer: str, change: Change, side: Literal["input", "output"] = "input") -> None:
        """A change is computed in front of a layer, or after it."""
        module = self.model.get_submodule(layer)
        attach(module, change, side)
        self._back.append(lambda: detach(module))

    def undo(self) -> None:
        """Everything as it was."""
        for back in reversed(self._back):
            back()
        self._back.clear()
        self.tensors.clear()


@dataclass(frozen=True)
class Stretch:
    """A part of a model that is run by itself on the calibration data: a block, or a model without blocks.

    Args:
        name: of the block; empty for the whole model.
        run: what it makes of sequence i.
        count: sequences.
    """

    module: nn.Module
    name: str
    run: Callable[[int], object]
    count: int

    def full(self, inside: str) -> str:
        """The name in the model of a layer of the stretch."""
        return f"{self.name}.{inside}" if self.name else inside


class Transforming:
    """The transforms of a run.

    Args:
        transforms: in the order in which they are applied; each is fitted on what the ones before it have left.
        activations: the quantizer of the layers' inputs.
        edits: notes what is changed.

    Attributes:
        inputs: layer -> the quantizer of its inputs, where a transform has asked for another one.
    """

    def __init__(self, model: nn.Module, transforms: Sequence[Transform], activations: Quantizer | None, seed: int, edits: Edits):
        self.model, self.activations, self.seed, self.edits = model, activations, seed, edits
        self.steps = [step for each in transforms for step in each.steps()]
        self.turned: Change | None = None
        self.inputs: dict[str, Quantizer] = {}
        self._known: dict[tuple[object, ...], list[Junction]] = {}

    def start(self) -> None:
        """Put the residual stream into another basis between the embedding and the last norm, where a transform asks for it.

        Raises:
            UnsupportedError: the model's stream has no clear beginning and end.
        """
        for step in self.steps:
            if isinstance(step, StreamTransform):
                if self.turned is not None:
                    raise UnsupportedError(f"{text(step)}: the residual stream is in another basis already; name one such transform")
                embeddings, norm, channels = self._ends(text(step))
                self.turned = step.basis(channels, Key(self.seed, "residual stream", "transform"))
                for name in embeddings:
                    self.edits.attach(name, self.turned, "output")
                self.edits.attach(norm, self.turned.inverse())

    def _ends(self, spec: str) -> tuple[list[str], str, int]:
        inside = tuple(f"{name}." for name in block_names(self.model))
        outside = [(n, m) for n, m in self.model.named_modules() if inside and not n.startswith(inside)]
        embeddings = [(n, m) for n, m in outside if isinstance(m, nn.Embedding)]
        norms = [(n, m) for n, m in outside if is_norm(m)]
        widths = {int(m.embedding_dim) for _, m in embeddings} | {int(m.weight.shape[0]) for _, m in norms}  # type: ignore[index,union-attr]
        if len(norms) != 1 or not embeddings or len(widths) != 1:
            have = f"{len(embeddings)} embeddings and {len(norms)} norms outside its blocks, of {sorted(widths)} channels"
            raise UnsupportedError(
                f"{spec} turns a stream from embeddings of one width to one last norm; {type(self.model).__name__} has {have}"
            )
        return [n for n, _ in embeddings], norms[0][0], widths.pop()

    def apply(self, stretch: Stretch, layers: Mapping[str, LayerPlan]) -> list[str]:
        """Transform a stretch; the layers' weights are then those in the new basis. Gives warnings.

        Args:
            layers: those that will be quantized, by their names in the stretch.

        Raises:
            UnsupportedError: a transform does not keep what the block computes, or cannot serve it.
            NonFiniteError: numbers on an edge are not finite.
        """
        if not layers:
            return []
        warnings: list[str] = []
        graph = discover(stretch.module, lambda: stretch.run(0))
        before = self._result(stretch)
        if self.turned is not None:
            before = self.turned.online(self._unturned(stretch, graph))
        for step in self.steps:
            if not isinstance(step, StreamTransform):
                warnings += self._step(step, stretch, graph, layers)
        after = self._result(stretch)
        lost = float((after.float() - before.float()).norm()) / max(float(before.float().norm()), 1e-30)
        if not lost <= TOLERANCE.get(before.dtype, 1e-3):
            raise UnsupportedError(
                f"{stretch.name or 'the model'} computes something else after {', '.join(text(s) for s in self.steps)}: its results differ "
                f"by {lost:.2g} of their norm; leave the transform out"
            )
        return warnings

    def _result(self, stretch: Stretch) -> Tensor:
        with torch.no_grad():
            out = stretch.run(0)
        return out if isinstance(out, Tensor) else out.logits  # type: ignore[attr-defined,no-any-return]

    def _unturned(self, stretch: Stretch, graph: Graph) -> Tensor:
        """Have the block read and write the turned stream; gives what it wrote before that, on the stream turned back."""
        assert self.turned is not None
        back = self.turned.inverse()
        first = stretch.module.register_forward_pre_hook(lambda m, a: (back.online(a[0]), *a[1:]))
        try:
            result = self._result(stretch)
        finally:
            first.remove()
        norms = [name for name, reads in graph.norms.items() if reads]
        for product in graph.products:
            module: Any = stretch.module.get_submodule(product.name)
            W, b = module.weight.data, getattr(module, "bias", None)
            if product.norm in norms:
                gain, shift = self._gain(stretch, product.norm)
                if shift is not None:
                    moved = W.double() @ shift.double()
                    b = (moved if b is None else moved + b.double()).to(W.dtype)
                W = (W.double() * gain.double()).to(W.dtype)
                W, b = self.turned.consumer(W, b)
            elif product.reads_residual:
                W, b = self.turned.consumer(W, b)
            if product.writes_residual:
                W, b = self.turned.producer(W, b)
            self._put(stretch.full(product.name), W, b)
        for name in norms:
            self._neutral(stretch, name)
        return result

    def _gain(self, stretch: Stretch, norm: str) -> tuple[Tensor, Tensor | None]:
        module: Any = stretch.module.get_submodule(norm)
        if "layernorm" in type(module).__name__.lower() and isinstance(module, nn.LayerNorm):
            raise UnsupportedError(
                f"{stretch.full(norm)} takes the mean of the stream off, which a turned stream does not allow; take hadamard"
            )
        rest = gain_at_rest(module)
        if rest is None:
            raise UnsupportedError(
                f"{stretch.full(norm)}, a {type(module).__name__}, has no gain for each channel that could go to its readers"
            )
        return module.weight.data + rest, getattr(module, "bias", None)

    def _neutral(self, stretch: Stretch, norm: str) -> None:
        module: Any = stretch.module.get_submodule(norm)
        gain, shift = self._gain(stretch, norm)
        self.edits.set(stretch.full(norm), "weight", module.weight.data - gain + 1)
        if shift is not None:
            self.edits.set(stretch.full(norm), "bias", torch.zeros_like(shift))

    def _junctions(self, stretch: Stretch, graph: Graph) -> list[Junction]:
        """Found once for all stretches of one make."""
        weights = {n: getattr(m, "weight", None) for n, m in stretch.module.named_modules()}
        make = tuple((n, tuple(w.shape)) for n, w in weights.items() if isinstance(w, Tensor))
        if make not in self._known:
            names = [product.name for product in graph.products]
            self._known[make] = junctions(stretch.module, graph, names, lambda: stretch.run(0))
        return self._known[make]

    def _step(self, step: Transform, stretch: Stretch, graph: Graph, layers: Mapping[str, LayerPlan]) -> list[str]:
        found = [j for j in self._junctions(stretch, graph) if any(name in layers for name in j.consumers)]
        stats = self._statistics(step, stretch, found)
        warnings = []
        for junction in found:
            edge, known = self._edge(junction, stretch, layers), stats.get(junction.consumers[0], {})
            try:
                change = step.fit(edge, known, Key(self.seed, edge.name, "transform"))
                inputs = None if edge.activations is None else step.inputs(edge, known)
                if change is not None and not self._place(change, junction, stretch, step.absorbed):
                    warnings.append(f"{edge.name}: nothing before it can absorb {text(step)}; left as it is")
                if inputs is not None:
                    self.inputs |= {stretch.full(name): inputs for name in junction.consumers if name in layers}
            except LowbitError as error:
                raise type(error)(f"{text(step)} in front of {edge.name}: {error}") from error
        return warnings

    def _statistics(self, step: Transform, stretch: Stretch, found: Sequence[Junction]) -> dict[str, dict[str, Tensor]]:
        if not step.needs:
            return {}
        held: dict[str, dict[str, Statistic]] = {
            j.consumers[0]: {name: catalog.find("statistic", name)() for name in step.needs} for j in found
        }
        place = 0

        def hook(name: str) -> Callable[..., None]:
            def update(module: nn.Module, args: tuple[Any, ...]) -> None:
                x = args[0].detach().movedim(channel_dim(module), -1).flatten(0, -2)
                if not bool(torch.isfinite(x).all()):
                    raise NonFiniteError(f"the inputs of {stretch.full(name)} are not finite for calibration sequence {place}")
                for statistic in held[name].values():
                    statistic.update(x)

            return update

        hooks = [stretch.module.get_submodule(name).register_forward_pre_hook(hook(name)) for name in held]
        try:
            with torch.no_grad():
                for place in range(stretch.count):
                    stretch.run(place)
        finally:
            for each in hooks:
                each.remove()
        return {name: {what: s.value() for what, s in statistics.items()} for name, statistics in held.items()}

    def _edge(self, junction: Junction, stretch: Stretch, layers: Mapping[str, LayerPlan]) -> Edge:
        planned = [name for name in junction.consumers if name in layers]
        weights = []
        for name in planned:
            W: Tensor = stretch.module.get_submodule(name).weight.data  # type: ignore[assignment,union-attr]
            weights.append(W if W.ndim == 2 else W.movedim(1, -1).flatten(0, -2))
        made = junction.producer
        by: Literal["norm", "product"] | None = (
            None if made is None else "norm" if is_norm(stretch.module.get_submodule(made)) else "product"
        )
        quantizers = [layers[name].quantizer for name in planned]
        rows: Any = stretch.module.get_submodule(made).weight.data if made is not None and by == "product" else None
        source = None if rows is None else rows.flatten(1)[junction.classes]
        linear = all(isinstance(stretch.module.get_submodule(name), nn.Linear) for name in planned)  # others have no quantized inputs
        inputs = self.inputs.get(stretch.full(planned[0]), self.activations) if linear else None
        return Edge(stretch.full(planned[0]), weights, quantizers, inputs, by, junction.classes, source)

    def _place(self, change: Change, junction: Junction, stretch: Stretch, absorbed: bool) -> bool:
        """Absorb a change in the layer before, or else have it computed, unless it must be absorbed."""
        inside = self._absorb(change, junction, stretch)
        if absorbed and not inside:
            return False
        for name in junction.consumers:
            module: Any = stretch.module.get_submodule(name)
            W, b = module.weight.data, getattr(module, "bias", None)
            if W.ndim > 2:
                if isinstance(change, Scaled) and change.shift is not None:
                    raise UnsupportedError("a convolution pads with zeros, which a shift would move; take a transform without one")
                W, b = change.consumer(W.movedim(1, -1), b)
                W = W.movedim(-1, 1).contiguous()
            else:
                W, b = change.consumer(W, b)
            self._put(stretch.full(name), W, b)
            if not inside:
                self.edits.attach(stretch.full(name), change)
        return True

    def _absorb(self, change: Change, junction: Junction, stretch: Stretch) -> bool:
        if junction.producer is None or junction.classes is None or not change.acts_within(junction.classes):
            return False
        module: Any = stretch.module.get_submodule(junction.producer)
        there = change.at_producer(junction.classes, len(module.weight))
        if is_norm(module):
            rest, bias = gain_at_rest(module), getattr(module, "bias", None)
            if not isinstance(there, Scaled) or there.shift is not None or rest is None:
                return False
            gain, bias = there.producer(module.weight.data + rest, bias)
            self._put(stretch.full(junction.producer), gain - rest, bias)
            return True
        if isinstance(there, Scaled):
            if there.shift is not None:
                return False
        elif not passes(stretch.module, junction, change, lambda: stretch.run(0)):
            return False
        W, b = there.producer(module.weight.data, getattr(module, "bias", None))
        self._put(stretch.full(junction.producer), W, b)
        return True

    def _put(self, layer: str, W: Tensor, b: Tensor | None) -> None:
        self.edits.set(layer, "weight", W)
        if b is not None:
            self.edits.set(layer, "bias", b)
