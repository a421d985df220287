"""The contract of a block solver: from a block as a function of its weights, and what it should give, to the codes of all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor

from lowbit.errors import UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight
from lowbit.solvers.rtn import RTN
from lowbit.solvers.solver import Solver

#: what a block should give: what the full-precision model gives after it, or what the block gives in full precision on the same inputs
Target = Literal["model", "block"]


class Sample(NamedTuple):
    """One call of a block: its arguments, and what it should give."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Tensor


class Forward(Protocol):
    """A block as a function of its weights. It keeps nothing between calls and may be called by several threads at a time."""

    def __call__(self, weights: Mapping[str, Tensor], sample: Sample) -> Tensor:
        """What the block gives for the arguments of a sample, in the shape of its target."""


@dataclass(frozen=True)
class BlockSolver(Solver):
    """Picks the codes of all weights of a block together. A weight that lies in no block goes to ``start``.

    Args:
        start: the solver of one weight whose codes are the ones to begin with; its statistics are collected where it needs some.
        target: ``model``, what the full-precision model gives after this block, so that the block also makes up for what blocks before
            it have lost; or ``block``, what this block gives in full precision for the same inputs.

    Raises:
        UnsupportedError: another target, or a block solver to start with.
    """

    start: Solver = RTN()
    target: Target = "model"

    def __post_init__(self) -> None:
        if self.target not in ("model", "block"):
            raise UnsupportedError(f"target={self.target}: the target of a block is what the model gives after it (model), or the block")
        if isinstance(self.start, BlockSolver):
            raise UnsupportedError("a block solver starts with a solver of single weights: rtn, gptq or qep for instance")

    @property
    def calibrated(self) -> bool:
        return True

    @property
    def two_streams(self) -> bool:
        return self.target == "model" or self.start.two_streams

    @abstractmethod
    def solve_block(
        self,
        weights: Mapping[str, Tensor],
        quantizers: Mapping[str, Quantizer],
        forward: Forward,
        samples: Sequence[Sample],
        key: Key,
        start: Mapping[str, Weight],
    ) -> Mapping[str, Weight]:
        """The quantized weights, under the names of ``weights``, which are left as they are.

        Shapes:
            weights     (out, in) each, any float dtype

        Args:
            samples: calibration sequences; taking one out may run the model, so each is taken when it is needed.
            key: seed and block name.
            start: what ``self.start`` gave for each weight.

        Raises:
            NonFiniteError: no step gave a finite error.
        """

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        """A weight that lies in no block."""
        return self.start.solve(W, quantizer, stats, key)

    def nbytes(self, quantizer: Quantizer, shape: tuple[int, ...]) -> int:
        """Bytes of the quantizer.

        Raises:
            UnsupportedError: the solver cannot work with it; says why.
        """
        reason = self.refuses(quantizer)
        if reason is not None:
            raise UnsupportedError(reason)
        return quantizer.nbytes(shape)

    def refuses(self, quantizer: Quantizer) -> str | None:
        """Why the solver cannot work with a quantizer, or None."""
        return None
