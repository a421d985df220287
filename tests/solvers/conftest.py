"""A small block for block solvers, and the Gram matrix of correlated inputs for the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers.block_solver import BlockSolver, Sample
from lowbit.solvers.rtn import RTN


class Toy(NamedTuple):
    """x + tanh(x A^T) B^T with its weights, and calls of it."""

    weights: dict[str, Tensor]
    samples: list[Sample]

    @staticmethod
    def forward(weights: Mapping[str, Tensor], sample: Sample) -> Tensor:
        (x,) = sample.args
        return x + torch.tanh(x @ weights["first"].mT) @ weights["second"].mT

    def solved(self, solver: BlockSolver, spec: str = "int3 g32", seed: int = 0) -> Mapping[str, Weight]:
        q = quantizer(spec)
        start = {name: solver.start.solve(W, q, {}, Key()) for name, W in self.weights.items()}
        return solver.solve_block(self.weights, dict.fromkeys(self.weights, q), self.forward, self.samples, Key(seed, "toy"), start)

    def lost(self, dense: Mapping[str, Tensor]) -> float:
        """The mean over all calls of the squared error, summed over channels."""
        return sum(float((self.forward(dense, s) - s.target).double().square().sum(-1).mean()) for s in self.samples) / len(self.samples)

    def nearest(self, spec: str = "int3 g32") -> dict[str, Tensor]:
        return {name: RTN().solve(W, quantizer(spec), {}, Key()).dequantize() for name, W in self.weights.items()}


@pytest.fixture
def toy() -> Toy:
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(64, 64, generator=g) / 8 + torch.eye(64)
    weights = {"first": torch.randn(96, 64, generator=g) / 8, "second": torch.randn(64, 96, generator=g) / 10}
    samples = []
    for _ in range(6):
        x = torch.randn(1, 40, 64, generator=g) @ mix
        samples.append(Sample((x,), {}, Toy.forward(weights, Sample((x,), {}, x))))
    return Toy(weights, samples)


@pytest.fixture
def problem() -> Callable[..., tuple[Tensor, Tensor]]:
    """A weight (out, in) and the Gram matrix of correlated inputs."""

    def make(rows: int = 24, n: int = 64, seed: int = 0, tokens: int = 400) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(seed)
        X = torch.randn(tokens, n, generator=g) @ (torch.eye(n) + 0.7 * torch.randn(n, n, generator=g) / n**0.5)
        return torch.randn(rows, n, generator=g), X.double().mT @ X.double()

    return make


@pytest.fixture
def lost() -> Callable[[Tensor, Tensor, Tensor], float]:
    """tr((W - Q) H (W - Q)^T)."""
    return lambda W, Q, H: float((((W - Q).double() @ H) * (W - Q).double()).sum())
