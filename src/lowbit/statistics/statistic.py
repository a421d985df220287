"""The contract of a statistic: fed one sequence at a time, in order, so that its value depends on nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor


class Statistic(ABC):
    """Something measured on the inputs of a layer.

    Sequences are fed one by one in the order of the data, whatever the batch size of the user; sums over sequences
    are float64.
    """

    @abstractmethod
    def update(self, x: Tensor, *, reference: Tensor | None = None) -> None:
        """One sequence.

        Shapes:
            x           (tokens, in), as the quantized model sees it
            reference   (tokens, in), the same inputs in the full-precision model, where a method compares the two
        """

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add what another one has seen, after this one's data."""

    @abstractmethod
    def value(self) -> Tensor:
        """The statistic of everything seen so far."""
