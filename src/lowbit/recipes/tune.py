"""The weights of a block solved together: the block as a function of them, and what it should give for each sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import overload

from torch import Tensor

from lowbit.errors import LowbitError
from lowbit.nn.pure import PureBlock
from lowbit.philox import Key
from lowbit.recipes.solved import Solved, relative_error
from lowbit.recipes.walk import Passes, Walk, originals_in
from lowbit.solvers.block_solver import BlockSolver, Sample


class Samples(Sequence[Sample]):
    """The calls of a block for all sequences of the quantized stream, made when they are taken."""

    def __init__(self, name: str, passes: Passes, walk: Walk, of_model: bool) -> None:
        self.name, self.passes, self.walk, self.of_model = name, passes, walk, of_model

    def __len__(self) -> int:
        return self.passes.count

    @overload
    def __getitem__(self, i: int) -> Sample: ...
    @overload
    def __getitem__(self, i: slice) -> list[Sample]: ...
    def __getitem__(self, i: int | slice) -> Sample | list[Sample]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        call = self.walk.calls[self.name]
        if self.of_model:
            assert self.walk.exact is not None
            target = self.walk.exact[i]
        else:
            with originals_in(self.passes.layers.values(), self.passes.originals):
                target = self.walk.run(self.name, i)
        return Sample((self.walk.quantized[i], *call.args), call.kwargs, target)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


def tuned(name: str, solver: BlockSolver, start: Sequence[Solved], passes: Passes, walk: Walk, seed: int) -> list[Solved]:
    """The layers of a block as the solver leaves them; the block itself stays as it is.

    Where the solver's target is what the model gives, the full-precision stream is moved through the block first.

    Args:
        start: all layers of the block as solved one by one.
    """
    of_model = solver.target == "model"
    if of_model:
        passes.end_exact(walk, name)
    passes.replay.forget()
    inside = {layer.name: short for short, layer in passes.layers.items()}
    begun = {inside[s.layer.name]: s for s in start}
    originals = {short: passes.originals[s.layer.name].flatten(1) for short, s in begun.items()}
    pure = PureBlock(passes.block, list(originals), walk.calls[name].in_tuple)

    def forward(weights: Mapping[str, Tensor], sample: Sample) -> Tensor:
        return pure(weights, sample.args, sample.kwargs)

    quantizers = {short: s.layer.quantizer for short, s in begun.items()}
    samples = Samples(name, passes, walk, of_model)
    try:
        found = solver.solve_block(originals, quantizers, forward, samples, Key(seed, name), {k: s.weight for k, s in begun.items()})
    except LowbitError as error:
        raise type(error)(f"block {name}: {error}") from error
    return [Solved(s.layer, found[k], relative_error(originals[k], found[k].dequantize())) for k, s in begun.items()]
