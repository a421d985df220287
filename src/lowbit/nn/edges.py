"""Edges: the numbers that products read, and what could give other numbers in their place.

Nothing is known of architectures. What gives the numbers channel by channel is found by trying: a candidate's output is doubled, then
channels of it by a binary code, and what arrives at the readers shows whether and where each channel comes out again. Factors are
powers of two, so a path that is linear gives exactly the doubled numbers, whatever the precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowbit.nn.change import channel_dim
from lowbit.nn.graph import Graph
from lowbit.nn.replace import KINDS
from lowbit.transforms.transform import Change

Run = Callable[[], object]
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Junction:
    """Numbers that one or several products read.

    Args:
        consumers: the products, in order of execution.
        channels: numbers of a token (or place).
        producer: the norm or product whose channels they are, up to factors that do not depend on it; None where there is none.
        classes: (channels,) int64, which channel of the producer each one is.
    """

    consumers: tuple[str, ...]
    channels: int
    producer: str | None = None
    classes: Tensor | None = None


def junctions(module: nn.Module, graph: Graph, names: Sequence[str], run: Run) -> list[Junction]:
    """The edges in front of the named products, in order of execution, each with its producer where one is found and proved.

    Args:
        graph: of the module.
        names: products that may be changed; what only others read too is left without a producer.
        run: runs the module on a small sample, always the same one.
    """
    able = [name for name in names if name not in graph.unsure and not isinstance(module.get_submodule(name), nn.Embedding)]
    groups = [tuple(group) for group in graph.groups(able) if _plain(module, group)]
    seen, out = _run(module, groups, run)
    found = {}
    for group in groups:
        x = seen[group]
        found[group] = Junction(group, x.shape[channel_dim(module.get_submodule(group[0]))])
    for producer in reversed(_candidates(module)):
        doubled, _ = _run(module, groups, run, {producer: lambda y: 2 * y})
        for group in groups:
            twice = torch.equal(doubled[group], 2 * seen[group]) and not torch.equal(doubled[group], seen[group])
            if found[group].producer is None and twice:
                classes = _classes(module, group, producer, seen[group], run)
                if classes is not None and _proved(module, group, producer, classes, run, out):
                    found[group] = Junction(group, found[group].channels, producer, classes)
    return list(found.values())


def _plain(module: nn.Module, group: Sequence[str]) -> bool:
    layers = [module.get_submodule(name) for name in group]
    return all(getattr(layer, "groups", 1) == 1 for layer in layers) and len({channel_dim(layer) for layer in layers}) == 1


def _candidates(module: nn.Module) -> list[str]:
    """Layers that have a gain for each channel."""
    layers = [(name, layer) for name, layer in module.named_modules() if not isinstance(layer, nn.Embedding)]
    return [name for name, layer in layers if isinstance(layer, KINDS) or is_norm(layer)]


def is_norm(layer: nn.Module) -> bool:
    """Whether a layer norms its input and then multiplies each channel."""
    weight = getattr(layer, "weight", None)
    return "norm" in type(layer).__name__.lower() and isinstance(weight, Tensor) and weight.ndim == 1


def _outputs(layer: nn.Module) -> int:
    return int(layer.weight.shape[0])  # type: ignore[index,union-attr]


def _classes(module: nn.Module, group: tuple[str, ...], producer: str, x: Tensor, run: Run) -> Tensor | None:
    """The producer's channel of each channel, read bit by bit."""
    count = _outputs(module.get_submodule(producer))
    dim = channel_dim(module.get_submodule(group[0]))
    rows = x.movedim(dim, -1).flatten(0, -2)
    place = rows.abs().argmax(0, keepdim=True)
    top = rows.gather(0, place)[0]
    number = torch.zeros(len(top), dtype=torch.int64)
    for bit in range(max(1, (count - 1).bit_length())):
        factors = 1.0 + ((torch.arange(count) >> bit) & 1)
        scaled, _ = _run(module, [group], run, {producer: _times(factors, module.get_submodule(producer))})
        now = scaled[group].movedim(dim, -1).flatten(0, -2)
        if now.shape != rows.shape:  # a router sends other tokens here
            return None
        up = now.gather(0, place)[0] == 2 * top
        if not torch.equal(now, rows * (1 + up.to(rows.dtype))):
            return None
        number |= up.long().cpu() << bit
    dead = top == 0
    if bool(dead.any()):  # nothing is seen of these: they can only be where they would be if the order were kept
        if len(number) != count:
            return None
        number = torch.where(dead.cpu(), torch.arange(count), number)
    return number if int(number.max()) < count else None


def _proved(module: nn.Module, group: tuple[str, ...], producer: str, classes: Tensor, run: Run, out: Tensor | None) -> bool:
    """Whether nobody else reads these channels: with all of them doubled, and halved before the readers, nothing changes."""
    source = module.get_submodule(producer)
    factors = 1.0 + (torch.arange(_outputs(source)) % 3 != 1)
    undone = _times(1 / factors[classes], module.get_submodule(group[0]))
    _, changed = _run(module, [group], run, {producer: _times(factors, source)}, dict.fromkeys(group, undone))
    return out is not None and changed is not None and torch.equal(changed, out)


def passes(module: nn.Module, junction: Junction, change: Change, run: Run) -> bool:
    """Whether a change of the producer's channels arrives at the consumers as the same change: undone there, the result stays.

    Diagonal changes pass wherever a producer was found; those that mix channels only where nothing happens to single channels between.
    """
    assert junction.producer is not None and junction.classes is not None
    source, reader = module.get_submodule(junction.producer), module.get_submodule(junction.consumers[0])
    if not change.acts_within(junction.classes):
        return False
    there, back = change.at_producer(junction.classes, _outputs(source)), change.inverse()
    _, out = _run(module, [], run)
    _, changed = _run(module, [], run, {junction.producer: _along(there, source)}, dict.fromkeys(junction.consumers, _along(back, reader)))
    if out is None or changed is None:
        return False
    return float((changed.float() - out.float()).norm()) <= 1e-3 * float(out.float().norm())


def _run(
    module: nn.Module, groups: Sequence[tuple[str, ...]], run: Run, outputs: Mapping[str, Function] | None = None,
    inputs: Mapping[str, Function] | None = None,
) -> tuple[dict[tuple[str, ...], Tensor], Tensor | None]:  # fmt: skip
    """What each group reads and what the module gives, with functions on outputs and inputs of layers."""
    seen: dict[tuple[str, ...], Tensor] = {}

    def keep(group: tuple[str, ...]) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...]) -> None:
            seen.setdefault(group, args[0].detach().clone())

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for group in groups:
            hooks.enter_context(_removed(module.get_submodule(group[0]).register_forward_pre_hook(keep(group))))
        for name, function in (outputs or {}).items():
            layer = module.get_submodule(name)
            hooks.enter_context(_removed(layer.register_forward_hook(lambda m, a, y, f=function: f(y))))
        for name, function in (inputs or {}).items():
            layer = module.get_submodule(name)
            hooks.enter_context(_removed(layer.register_forward_pre_hook(lambda m, a, f=function: (f(a[0]), *a[1:]))))
        out = run()
    result = out if isinstance(out, Tensor) else getattr(out, "logits", None)
    return seen, result


def _times(factors: Tensor, layer: nn.Module) -> Function:
    dim = channel_dim(layer)

    def multiply(x: Tensor) -> Tensor:
        shape = [1] * x.ndim
        shape[dim] = -1
        return x * factors.to(x.device, x.dtype).reshape(shape)

    return multiply


def _along(change: Change, layer: nn.Module) -> Function:
    dim = channel_dim(layer)
    return lambda x: change.online(x.movedim(dim, -1)).movedim(-1, dim)


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def gain_at_rest(norm: nn.Module) -> float | None:
    """What a norm adds to its weight before it multiplies: 0, or 1 as Gemma's does; None where it is neither."""
    weight: Any = norm.weight
    bias: Any = getattr(norm, "bias", None)
    held, held_bias = weight.data, weight.data if bias is None else bias.data
    x = torch.arange(1, 2 * len(held) + 1, dtype=held.dtype, device=held.device)
    x = x.reshape(1, -1, 2, 1) if isinstance(norm, nn.BatchNorm2d) else x.reshape(2, -1)
    try:
        if bias is not None:
            bias.data = torch.zeros_like(held_bias)
        for rest in (0.0, 1.0):
            weight.data = torch.full_like(held, -rest)
            with torch.no_grad():
                if not bool(norm(x).any()):
                    return rest
    finally:
        weight.data = held
        if bias is not None:
            bias.data = held_bias
    return None
