"""The hidden states of all calibration sequences, moved from block to block; one stream, or two side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lowbit.errors import DataError, NonFiniteError, UnsupportedError
from lowbit.nn.capture import Call, calls, first_inputs, product_inputs, returns_tuple, several_inputs, with_last
from lowbit.nn.replay import Replay
from lowbit.recipes.plan import LayerPlan
from lowbit.recipes.stream import Stream


@dataclass(frozen=True)
class Source:
    """The data and how to run the model on it.

    Args:
        samples: one sequence (or image) each; run one at a time, in this order.
        forward: runs the whole model on one sample.
    """

    samples: Sequence[Any]
    forward: Callable[[Any], object]

    @staticmethod
    def from_batches(batches: Iterable[Any], forward: Callable[[Any], object]) -> Source:
        """The sequences of a DataLoader, one by one, so that no byte of a result depends on the size of its batches.

        Args:
            batches: tensors, or mappings or tuples of tensors, whose first axis counts the sequences; a mapping gives dicts.
            forward: runs the whole model on a batch of one.

        Raises:
            DataError: the tensors of a batch disagree on how many sequences there are.
        """
        return Source([one for batch in batches for one in _split(batch)], forward)


def _split(batch: Any) -> list[Any]:
    if isinstance(batch, Tensor):
        return list(batch.split(1))
    named = isinstance(batch, Mapping)
    parts = [_split(part) for part in (batch.values() if named else batch)]
    counts = sorted({len(part) for part in parts})
    if len(counts) != 1:
        raise DataError(f"the tensors of a batch hold {' and '.join(map(str, counts)) or 'no'} sequences; their first axis must agree")
    rows = zip(*parts, strict=True)
    return [dict(zip(batch, row, strict=True)) for row in rows] if named else list(rows)


class Resident(Protocol):
    """Makes parameters of a module available inside (a no-op for models in memory)."""

    def __call__(self, name: str, head: bool = False) -> AbstractContextManager[None]:
        """The parameters of a block, or for ``""`` all outside of the blocks; the output layer only if ``head`` says so."""


class Walk:
    """The hidden states of all sequences between two blocks, and how each block is called.

    Args:
        two: carry the full-precision stream beside the quantized one.
        spill: keep hidden states in files in this folder instead of in memory.
    """

    def __init__(self, module: nn.Module, names: list[str], source: Source, two: bool, hold: Resident, spill: Path | None):
        self.blocks = {name: module.get_submodule(name) for name in names}
        self.source = source
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
        """What block ``name`` makes of sequence i."""
        stream = self.exact if exact else self.quantized
        assert stream is not None
        return self.calls[name].run(self.blocks[name], stream[i])

    def run_outside(self, i: int) -> object:
        """The model around its blocks: they hand on their inputs, the last one gives the quantized stream's end."""
        in_tuple = next(iter(self.calls.values())).in_tuple
        return with_last(list(self.blocks.values()), self.quantized[i], self.source.forward, self.source.samples[i], in_tuple)


class Passes:
    """All passes through one block (or, without a walk, the whole module) while its products are replaced one after the other.

    Results that no longer change are kept, and so is what the full-precision stream feeds the products, as far as there is room.

    Args:
        room: bytes for both together.
    """

    def __init__(
        self, block: nn.Module, run: Callable[..., Any], layers: Mapping[str, LayerPlan], count: int, room: int,
        originals: Mapping[str, Tensor], exact: bool,
    ):  # fmt: skip
        self.block, self.run, self.layers, self.count, self.originals = block, run, layers, count, originals
        self.exact = exact
        self.room = room
        self.replay = Replay(block, layers, room)
        self.recorded: list[dict[str, Tensor]] = []
        self.outputs: list[Tensor] = []
        self.exact_ended = False

    def record(self, products: Sequence[str]) -> None:
        """Run the full-precision stream once and keep what it feeds these products, if there is room for that of all sequences."""
        if not self.exact or not products:
            return
        modules = {name: self.block.get_submodule(name) for name in products}
        with originals_in(self.layers.values(), self.originals):
            for i in range(self.count):
                found, out = several_inputs(modules, lambda i=i: self.run(i, True))  # type: ignore[misc]
                taken = sum(t.numel() * t.element_size() for t in (*found.values(), out))
                if i == 0 and taken * self.count > self.room // 2:
                    return
                self.recorded.append(found)
                self.outputs.append(out)
        self.replay.room = self.room // 2

    def inputs(self, product: str, i: int) -> tuple[Tensor, Tensor | None]:
        """What a product reads for sequence i: in the quantized stream, and in the full-precision one if that is carried."""
        module = self.block.get_submodule(product)
        reference = None
        if self.exact:
            known = self.recorded[i].get(product) if self.recorded else None
            if known is None:
                with originals_in(self.layers.values(), self.originals):
                    known = product_inputs(self.block, module, lambda: self.run(i, True))
            reference = known
        with self.replay.sample(i):
            return product_inputs(self.block, module, lambda: self.run(i)), reference

    def end_exact(self, walk: Walk, name: str) -> None:
        """Move the full-precision stream of a walk, if there is one, through the block, once; its inputs cannot be asked for after that."""
        if walk.exact is None or self.exact_ended:
            return
        with originals_in(self.layers.values(), self.originals):
            for i in range(self.count):
                walk.exact[i] = self.outputs[i] if self.outputs else walk.run(name, i, exact=True)
        self.exact_ended = True
        self.recorded.clear()
        self.outputs.clear()

    def end(self, walk: Walk, name: str) -> None:
        """Move both streams of a walk through the finished block.

        Raises:
            NonFiniteError: an output is not finite.
        """
        self.end_exact(walk, name)
        for i in range(self.count):
            with self.replay.sample(i):
                out = walk.run(name, i)
            if not bool(torch.isfinite(out).all()):
                raise NonFiniteError(f"the output of block {name} is not finite for calibration sequence {i}; finished blocks stay")
            walk.quantized[i] = out


@contextmanager
def originals_in(layers: Iterable[LayerPlan], originals: Mapping[str, Tensor]) -> Iterator[None]:
    """The layers hold their original weights inside."""
    current = []
    for p in layers:
        weight: Any = p.target.module.weight
        current.append((weight, weight.data))
        weight.data = originals[p.name]
    try:
        yield
    finally:
        for weight, data in current:
            weight.data = data


def always(name: str, head: bool = False) -> AbstractContextManager[None]:
    """For models in memory."""
    return nullcontext()
