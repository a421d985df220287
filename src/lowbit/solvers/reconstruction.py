"""The loop that block solvers share: weights on their way to codes are moved until the block gives what it should."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit import philox
from lowbit.errors import DataError, NonFiniteError
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers.block_solver import BlockSolver, Forward, Sample
from lowbit.solvers.neighbours import pieces
from lowbit.threads import Workers, workers

#: shares of the steps after which the error of the rounded weights is looked at
LOOKS = (0.0, 0.5, 0.75, 1.0)


class Soft(ABC):
    """One weight on its way to codes. Its parameters are its own; it is moved by one thread at a time.

    Attributes:
        parameters: what ``move`` changes.
    """

    parameters: tuple[Tensor, ...]

    @abstractmethod
    def values(self) -> Tensor:
        """What the block computes with now, (out, in) float32; overwritten by the next call."""

    @abstractmethod
    def move(self, gradient: Tensor, progress: float) -> None:
        """One step against the gradient of the block's error in ``values``; progress is the share of the steps done, in [0, 1)."""

    @abstractmethod
    def hard(self) -> Tensor:
        """The numbers that the weight would be stored with now, (out, in) float32."""

    @abstractmethod
    def weight(self) -> Weight:
        """The weight with those numbers."""


@dataclass(frozen=True)
class Reconstruction(BlockSolver):
    """A block solver that moves its weights step by step and keeps the best of those looked at.

    Args:
        steps: how often all weights are moved.
        batch: sequences that a step sees.
        checks: sequences on which the error is looked at, at the beginning and three times later.

    Raises:
        DataError: a number below 1.
    """

    steps: int = 40
    batch: int = 2
    checks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.batch < 1 or self.checks < 1:
            raise DataError(f"steps={self.steps}:batch={self.batch}:checks={self.checks}: each is at least 1")

    @abstractmethod
    def soft(self, W: Tensor, quantizer: Quantizer, start: Weight) -> Soft:
        """The weight at the beginning of its way, which rounds to what ``start`` holds."""

    def solve_block(
        self, weights: Mapping[str, Tensor], quantizers: Mapping[str, Quantizer], forward: Forward, samples: Sequence[Sample], key: Key,
        start: Mapping[str, Weight],
    ) -> Mapping[str, Weight]:  # fmt: skip
        softs = {name: self.soft(W, quantizers[name], start[name]) for name, W in weights.items()}
        return _reconstruct(softs, forward, samples, key, self, next(iter(weights.values())).device)


def error(out: Tensor, target: Tensor) -> Tensor:
    """Squared, summed over channels and averaged over places."""
    return (out.float() - target.float()).square().sum(-1).mean()


def _reconstruct(
    softs: Mapping[str, Soft], forward: Forward, samples: Sequence[Sample], key: Key, schedule: Reconstruction, device: torch.device
) -> dict[str, Weight]:
    """Move the weights ``schedule.steps`` times and return the best of those looked at, the start included.

    A step sees the next ``batch`` sequences of one random order after the other. Each sequence is run on one thread and their gradients are
    added in order, so no bit depends on how many threads there are.

    Raises:
        NonFiniteError: the error is never finite.
    """
    names = list(softs)
    looks = {round(share * schedule.steps) for share in LOOKS}
    drawn = _orders(key, len(samples), schedule.steps * schedule.batch)
    checked = _orders(key._replace(role="checks"), len(samples), min(schedule.checks, len(samples)))
    least, best = torch.inf, [p.clone() for soft in softs.values() for p in soft.parameters]
    with workers(device) as team:
        for step in range(schedule.steps + 1):
            if step in looks:
                lost = _looked(softs, forward, samples, checked, team)
                if lost < least:
                    least, best = lost, [p.clone() for soft in softs.values() for p in soft.parameters]
            if step == schedule.steps:
                break
            values = dict(zip(names, team.each(lambda s: s.values(), list(softs.values())), strict=True))
            total = _gradients(values, forward, samples, drawn[step * schedule.batch :][: schedule.batch], team)
            for _ in team.each(lambda pair: pair[0].move(pair[1], step / schedule.steps), list(zip(softs.values(), total, strict=True))):  # noqa: B023
                pass
    if least == torch.inf:
        raise NonFiniteError("the output of the block is not finite at any step")
    for parameter, kept in zip((p for soft in softs.values() for p in soft.parameters), best, strict=True):
        parameter.copy_(kept)
    return {name: soft.weight() for name, soft in softs.items()}


def _orders(key: Key, count: int, wanted: int) -> list[int]:
    """``wanted`` numbers below ``count``: one random order after the other."""
    rounds = range(-(-wanted // count))
    return [i for r in rounds for i in philox.noise(key._replace(step=r), (count,)).argsort(stable=True).tolist()][:wanted]


def _looked(softs: Mapping[str, Soft], forward: Forward, samples: Sequence[Sample], checked: Sequence[int], team: Workers) -> float:
    values = dict(zip(softs, team.each(lambda s: s.hard(), list(softs.values())), strict=True))

    def lost(sample: Sample) -> float:
        with torch.no_grad():
            return float(error(forward(values, sample), sample.target).double())

    total = sum(team.each(lost, [samples[i] for i in checked]))
    return total if total == total else torch.inf


def _gradients(
    values: Mapping[str, Tensor], forward: Forward, samples: Sequence[Sample], drawn: Sequence[int], team: Workers
) -> list[Tensor]:
    """Of the sum of the errors in each weight."""

    def of(i: int) -> tuple[Tensor, ...]:
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        with torch.enable_grad():
            found = torch.autograd.grad(error(forward(leaves, taken[i]), taken[i].target), list(leaves.values()), allow_unused=True)
        return tuple(torch.zeros_like(v) if g is None else g for g, v in zip(found, leaves.values(), strict=True))

    total: list[Tensor] = []
    for first in range(0, len(drawn), team.count):
        some = drawn[first : first + team.count]
        taken = {i: samples[i] for i in some}  # taking one may run the model, which only one thread may do
        for gradients in team.each(of, some):
            total = [t.add_(g) for t, g in zip(total, gradients, strict=True)] if total else list(gradients)
    return total


class Adam:
    """Adam for one parameter, which is changed in place.

    Source:
        Kingma, Ba (2014), Adam: A Method for Stochastic Optimization, arXiv:1412.6980, Alg. 1.
    """

    def __init__(self, parameter: Tensor, rate: float, mean: float = 0.9, square: float = 0.999) -> None:
        self.parameter, self.rate, self.decay = parameter if parameter.ndim else parameter.unsqueeze(0), rate, (mean, square)
        self.mean, self.square, self.steps = torch.zeros_like(self.parameter), torch.zeros_like(self.parameter), 0

    def step(self, gradient: Tensor, share: float = 1.0) -> None:
        """One step against the gradient, at this share of the rate."""
        self.steps += 1
        first, second = self.decay
        rate = -self.rate * share / (1 - first**self.steps)
        gradient = gradient.reshape(self.parameter.shape)
        for i in pieces(self.parameter):
            mean, square = self.mean[i].lerp_(gradient[i], 1 - first), self.square[i].mul_(second)
            square.addcmul_(gradient[i], gradient[i], value=1 - second)
            size = (square / (1 - second**self.steps)).sqrt_().add_(1e-12)
            self.parameter[i].addcdiv_(mean, size, value=rate)
