"""Formats whose numbers come from arithmetic on bits, for those that are too wide for a table."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from lowbit.formats.format import Overflow
from lowbit.rounding.ieee754 import nearest_even
from lowbit.rounding.rounding import Rounding


class BitFormat(ABC):
    """A symmetric format of up to 32 bits; codes are words in int32 (of 32 bits, the upper half is negative), exact in float64.

    A subclass has ``name``, ``bits``, ``levels``, ``max``, ``top``, ``min_positive``, ``step_at_top``, ``encode`` and
    ``decode64``.
    """

    bits: int

    @property
    @abstractmethod
    def name(self) -> str:
        """As in ``Format``, like the facts below."""

    @property
    @abstractmethod
    def levels(self) -> int:
        """How many codes there are."""

    @property
    @abstractmethod
    def max(self) -> float:
        """The largest number."""

    @property
    @abstractmethod
    def top(self) -> float:
        """What ``absmax`` maps to."""

    @property
    @abstractmethod
    def min_positive(self) -> float:
        """The smallest positive number."""

    @property
    @abstractmethod
    def step_at_top(self) -> float:
        """The distance of the two largest numbers."""

    @property
    def min(self) -> float:
        """The most negative number."""
        return -self.max

    @property
    def identity(self) -> str:
        """The name says everything."""
        return f"{self.name}:arithmetic"

    @abstractmethod
    def encode(
        self,
        y: Tensor,
        rounding: Rounding = nearest_even,
        noise: Tensor | None = None,
        table: Tensor | None = None,
        overflow: Overflow = "saturate",
    ) -> Tensor:
        """As ``Format.encode``."""

    @abstractmethod
    def decode64(self, codes: Tensor) -> Tensor:
        """The exact float64 numbers of codes."""

    def decode(self, codes: Tensor, table: Tensor | None = None) -> Tensor:
        """The numbers rounded once to float32, which does not hold every one."""
        return self.decode64(codes).float()

    def __str__(self) -> str:
        return self.name
