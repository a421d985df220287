"""What feeds what inside a model, found by running it once on a sample; no table of known architectures."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lowbit.nn.replace import KINDS

#: operations whose result holds the same numbers as their first argument, in another place
COPIES = {"aten._to_copy", "aten.clone", "aten.contiguous", "aten.dropout", "aten.native_dropout", "aten.copy_", "aten.lift_fresh"}
#: operations that scale a branch on its way to the sum (layer scale, residual multipliers)
SCALINGS = {"aten.mul", "aten.div"}
#: functions of one number that may stand between a sum and who reads it, as in ResNet
ACTIVATIONS = {f"aten.{name}" for name in ("relu", "hardtanh", "hardswish", "silu", "gelu", "leaky_relu")}
ADDITIONS = {"aten.add", "aten.add_"}


@dataclass(frozen=True)
class Product:
    """A layer that multiplies its input with a weight.

    Args:
        name: as in ``named_modules``.
        inputs: products with the same number read the same numbers.
        norm: the norm whose output it reads, or None.
        reads_residual: whether it reads the residual stream directly.
        writes_residual: whether its result is added to the residual stream.
        calls: how often it ran in the sample (shared layers run more than once).
    """

    name: str
    inputs: int
    norm: str | None
    reads_residual: bool
    writes_residual: bool
    calls: int


@dataclass(frozen=True)
class Graph:
    """What discovery found, in the order of execution.

    Attributes:
        products: every product that ran.
        norms: name of a norm -> whether it reads the residual stream.
        tied: groups of parameter names that are one tensor.
        unsure: layers that could not be placed, with the reason; methods leave them alone.
    """

    products: tuple[Product, ...]
    norms: dict[str, bool]
    tied: tuple[tuple[str, ...], ...]
    unsure: dict[str, str] = field(default_factory=dict)

    def groups(self, names: Iterable[str]) -> list[list[str]]:
        """The named products in order of execution, those that share their input together."""
        wanted = set(names)
        found: dict[int, list[str]] = {}
        for product in self.products:
            if product.name in wanted:
                found.setdefault(product.inputs, []).append(product.name)
        return list(found.values())

    def after(self, norm: str) -> list[str]:
        """The products that read a norm's output."""
        return [p.name for p in self.products if p.norm == norm]


class _Tracer(TorchDispatchMode):
    """Follows tensors by their storage. Everything seen is kept alive, so that no storage is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[Any] = []
        self.root: dict[int, int] = {}
        self.copies: dict[tuple[int, int], tuple[Hashable, int, int]] = {}
        self.branches: dict[int, set[str]] = {}
        self.sums: dict[int, set[str]] = {}
        self.activated: dict[int, int] = {}
        self.additions: list[tuple[int, int, int, set[str]]] = []

    def key(self, x: Tensor) -> int:
        """The storage that first held these numbers."""
        place = x.untyped_storage().data_ptr()
        return self.root.get(place, place)

    def matrix(self, x: Tensor) -> Hashable:
        """The same for tensors that hold the same numbers as rows of one length, whatever their leading axes."""
        here = (x.untyped_storage().data_ptr(), _version(x))
        copied = self.copies.get(here)
        if copied is not None and copied[1:] == (x.shape[-1], x.numel()):
            return copied[0]
        return (*here, x.storage_offset(), x.shape[-1], x.stride(-1), x.numel())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [a for a in args if isinstance(a, Tensor)]
        out = (
            result
            if isinstance(result, Tensor)
            else result[0]
            if isinstance(result, tuple) and result and isinstance(result[0], Tensor)
            else None
        )
        self.alive.append((tensors, result))
        if out is None or not tensors:
            return result
        name = str(func).rpartition(".")[0]
        place, first = out.untyped_storage().data_ptr(), self.key(tensors[0])
        if name in COPIES and place != tensors[0].untyped_storage().data_ptr():
            self.root[place] = first
            if out.dim() and out.shape == tensors[0].shape:
                self.copies[place, _version(out)] = (self.matrix(tensors[0]), out.shape[-1], out.numel())
        elif name in ACTIVATIONS:
            self.activated[place] = first
        elif name in SCALINGS:
            for each in tensors:
                if self.key(each) in self.branches and each.shape == out.shape:
                    self.branches.setdefault(place, set()).update(self.branches[self.key(each)])
        elif name in ADDITIONS and len(tensors) == 2 and tensors[0].shape == tensors[1].shape and out.dim() > 1:
            self._addition(place, first, self.key(tensors[1]))
        return result

    def _addition(self, place: int, a: int, b: int) -> None:
        one, other = (self.branches.get(side, set()) | self.sums.get(side, set()) for side in (a, b))
        if one or other:
            self.additions.append((place, a, b, one | other))
        if one and other:  # branches may be added to each other before they are added to the stream
            self.sums[place] = one | other

    def residual(self, readers: set[int]) -> tuple[set[int], set[str]]:
        """The tensors of the residual stream, and the products that are added to it.

        An addition belongs to it when a norm or product reads its result or one of its sides, or when its result goes
        into such an addition; the sums inside rotary embeddings do not.

        Args:
            readers: tensors that norms and products read.
        """
        readers = readers | {self.activated[source] for source in readers if source in self.activated}
        stream: set[int] = set()
        writers: set[str] = set()
        for place, a, b, found in reversed(self.additions):
            if {place, a, b} & (readers | stream):
                stream |= {place} | ({a, b} & readers)
                stream |= {side for side in (a, b) if side not in self.branches}
                writers |= found
        return stream, writers


def _version(x: Tensor) -> int:
    """Counts the changes in place."""
    return 0 if x.is_inference() else x._version


def discover(module: nn.Module, run: Callable[[], object]) -> Graph:
    """Run the model once and note what its products and norms read and write.

    Args:
        run: runs ``module`` on a small sample (a few tokens, one image); called once, without gradients.
    """
    tracer = _Tracer()
    seen: list[tuple[str, int, Hashable]] = []
    norms: dict[str, tuple[int, int]] = {}
    hooks = []

    def product_hook(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(out, Tensor):
                seen.append((name, tracer.key(args[0]), tracer.matrix(args[0])))
                tracer.branches.setdefault(tracer.key(out), set()).add(name)

        return hook

    def norm_hook(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(out, Tensor):
                norms[name] = (tracer.key(args[0]), tracer.key(out))
                source = tracer.key(args[0])
                if source in tracer.branches and tracer.key(out) != source:  # a norm after a product, on its way to the sum
                    tracer.branches.setdefault(tracer.key(out), set()).update(tracer.branches[source])

        return hook

    for name, layer in module.named_modules():
        if isinstance(layer, KINDS) or type(layer).__module__.startswith("lowbit.nn"):
            if hasattr(layer, "weight"):
                hooks.append(layer.register_forward_hook(product_hook(name)))
        elif "norm" in type(layer).__name__.lower():
            hooks.append(layer.register_forward_hook(norm_hook(name)))
    try:
        with torch.no_grad(), tracer:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return _graph(module, tracer, seen, norms)


def _graph(module: nn.Module, tracer: _Tracer, seen: list[tuple[str, int, Hashable]], norms: dict[str, tuple[int, int]]) -> Graph:
    stream, writers = tracer.residual({source for _, source, _ in seen} | {source for source, _ in norms.values()})
    after = {out: name for name, (_, out) in norms.items()}
    number: dict[Hashable, int] = {}
    calls: dict[str, int] = {}
    first: dict[str, tuple[int, Hashable]] = {}
    unsure: dict[str, str] = {}
    for name, source, matrix in seen:
        calls[name] = calls.get(name, 0) + 1
        first.setdefault(name, (source, matrix))
        number.setdefault(matrix, len(number))
    for name, count in calls.items():
        if count > 1:
            unsure[name] = f"it ran {count} times in one pass"
    ran = set(calls)
    for name, layer in module.named_modules():
        if isinstance(layer, KINDS) and name not in ran:
            unsure[name] = "it did not run on the sample"
    products = tuple(
        Product(name, number[matrix], after.get(source), source in stream, name in writers, calls[name])
        for name, (source, matrix) in first.items()
    )
    shared: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    tied = tuple(tuple(names) for names in shared.values() if len(names) > 1)
    return Graph(products, {name: source in stream for name, (source, _) in norms.items()}, tied, unsure)


def block_names(module: nn.Module) -> list[str]:
    """The names of the model's repeated blocks in order: the children of its largest ModuleList of one class; [] if there is none."""
    best: tuple[int, list[str]] = (0, [])
    for name, layer in module.named_modules():
        if isinstance(layer, nn.ModuleList | nn.Sequential) and len(layer) > 1 and len({type(c) for c in layer}) == 1:
            if isinstance(layer[0], KINDS) or not any(isinstance(m, KINDS) for m in layer[0].modules()):
                continue
            count = sum(p.numel() for p in layer.parameters())
            if count > best[0]:
                best = (count, [f"{name}.{i}" if name else str(i) for i in range(len(layer))])
    return best[1]
