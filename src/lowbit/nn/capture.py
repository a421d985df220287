"""Running blocks on their own: what goes into them, and what goes into their products."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowbit.errors import UnsupportedError


class _Stop(Exception):
    """Ends a forward pass once everything wanted has been seen."""


@dataclass(frozen=True)
class Call:
    """How a block is called: everything beside the hidden state, which comes first, and the kind of its result.

    Args:
        args, kwargs: positional arguments after the first, and keyword arguments.
        in_tuple: whether the block returns the hidden state as the first of a tuple.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    in_tuple: bool

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The block's new hidden state."""
        with torch.no_grad():
            out = block(hidden.clone(), *self.args, **self.kwargs)  # some blocks work on their input in place
        return out[0] if self.in_tuple else out  # type: ignore[no-any-return]


def first_inputs(block: nn.Module, forward: Callable[[Any], object], sample: Any) -> Tensor:
    """The hidden state that the first block gets for a sample; the model is not run further.

    Raises:
        UnsupportedError: the block is not reached.
    """
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(_hidden(args, kwargs))
        raise _Stop

    with _hooked(block.register_forward_pre_hook(hook, with_kwargs=True)):
        _run(forward, sample)
    if not seen:
        raise UnsupportedError("the first block of the model is not reached by a forward pass")
    return seen[0].detach()


def calls(blocks: Sequence[nn.Module], forward: Callable[[Any], object], sample: Any, in_tuple: bool = False) -> list[Call]:
    """How each block is called, seen in one pass. Blocks whose parameters are not in memory hand their input on.

    Args:
        in_tuple: whether blocks return the hidden state in a tuple (see ``returns_tuple``).

    Raises:
        UnsupportedError: a block is called more than once, or not at all.
    """
    found: dict[int, Call] = {}

    def passing(index: int, block: nn.Module) -> Callable[..., Any]:
        own, here = block.forward, not any(p.is_meta for p in block.parameters())

        def run(*args: Any, **kwargs: Any) -> Any:
            if index in found:
                raise UnsupportedError(f"block {index} runs more than once in a pass, so it cannot be quantized block by block")
            hidden = _hidden(args, kwargs)
            others = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            found[index] = Call(tuple(args[1:]), others, in_tuple)
            if here:
                return own(*args, **kwargs)
            return (hidden,) if in_tuple else hidden

        return run

    with forwards({block: passing(i, block) for i, block in enumerate(blocks)}), torch.no_grad():
        forward(sample)
    if len(found) != len(blocks):
        raise UnsupportedError(f"a pass reaches {len(found)} of {len(blocks)} blocks")
    return [found[i] for i in range(len(blocks))]


def returns_tuple(block: nn.Module, forward: Callable[[Any], object], sample: Any) -> bool:
    """Whether a block returns its hidden state as the first of a tuple; runs the model up to its end."""
    seen: list[bool] = []

    def hook(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        seen.append(isinstance(out, tuple))
        raise _Stop

    with _hooked(block.register_forward_hook(hook)):
        _run(forward, sample)
    return bool(seen and seen[0])


def product_inputs(block: nn.Module, product: nn.Module, run: Callable[[], object]) -> Tensor:
    """The input of one product inside a block, as a matrix; the pass ends there.

    Shapes:
        result  (tokens, in); for a convolution the unfolded patches, (places, in * kernel)

    Raises:
        UnsupportedError: the product is not reached.
    """
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(as_matrix(module, args[0]))
        raise _Stop

    with _hooked(product.register_forward_pre_hook(hook)):
        try:
            with torch.no_grad():
                run()
        except _Stop:
            pass
    if not seen:
        raise UnsupportedError("the product is not reached by a forward pass of its block")
    return seen[0]


def several_inputs(products: Mapping[str, nn.Module], run: Callable[[], Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of several products as matrices, where they are reached and have one, and the result of the pass."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
            with suppress(UnsupportedError):  # who asks for this input is told then
                seen.setdefault(name, as_matrix(module, args[0]))

        return keep

    with ExitStack() as hooks, torch.no_grad():
        for name, product in products.items():
            hooks.enter_context(_hooked(product.register_forward_pre_hook(hook(name))))
        out = run()
    return seen, out


def with_last(blocks: Sequence[nn.Module], hidden: Tensor, forward: Callable[[Any], object], sample: Any, in_tuple: bool) -> object:
    """Run the model around its blocks: each hands on its input, the last one gives ``hidden``."""

    def passing(last: bool) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            out = hidden.clone() if last else _hidden(args, kwargs)
            return (out,) if in_tuple else out

        return run

    with forwards({block: passing(block is blocks[-1]) for block in blocks}):
        return forward(sample)


@contextmanager
def forwards(others: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Modules compute something else inside; afterwards what they did before."""
    before = {module: vars(module).get("forward") for module in others}
    for module, forward in others.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, own in before.items():
            del module.forward
            if own is not None:
                module.forward = own


def as_matrix(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer's input as rows that its weight matrix multiplies.

    Raises:
        UnsupportedError: a grouped or not two-dimensional convolution.
    """
    x = x.detach()
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1 or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            raise UnsupportedError("a convolution with groups, or padded other than with zeros, has no single input matrix")
        patches = torch.nn.functional.unfold(x.float(), layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return patches.mT.flatten(0, -2)
    if isinstance(layer, nn.Conv1d | nn.Conv3d):
        raise UnsupportedError(f"the inputs of {type(layer).__name__} are not collected")
    return x.flatten(0, -2)


def of_one_matrix(block: nn.Module, names: Sequence[str]) -> list[list[str]]:
    """Products that read one tensor, parted where they lay it out as different matrices, as convolutions of two sizes do."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for name in names:
        layer = block.get_submodule(name)
        layout = (layer.kernel_size, layer.dilation, layer.padding, layer.stride) if isinstance(layer, nn.Conv2d) else ()
        found.setdefault(layout, []).append(name)
    return list(found.values())


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    hidden = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(hidden, Tensor):
        raise UnsupportedError("a block does not take its hidden state as the first argument")
    return hidden


def _run(forward: Callable[[Any], object], sample: Any) -> None:
    try:
        with torch.no_grad():
            forward(sample)
    except _Stop:
        pass


@contextmanager
def _hooked(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
