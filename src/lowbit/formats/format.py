"""The contract of a number format, and what every format owes its users."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from lowbit.rounding.ieee754 import nearest_even
from lowbit.rounding.rounding import Rounding

#: ``saturate``: what is too large, Inf included, becomes the largest number. ``special``: it becomes Inf, or NaN
#: where the format has no Inf; a format without either saturates all the same.
Overflow = Literal["saturate", "special"]


@runtime_checkable
class Format(Protocol):
    """A set of numbers and the codes that stand for them. Every fact is derived from the definition.

    The written answers, the same for every format and backend:
        NaN           the NaN code of the same sign; a format without NaN takes its zero (or the number nearest
                      to zero), since a block that holds a NaN has a NaN scale and decodes to NaN anyway.
        Inf           as overflow.
        signed zero   kept where the format has two zeros; a small negative number that rounds to zero keeps its sign.
        ties          by the declared parity of the codes.
    """

    @property
    def name(self) -> str:
        """The field's usual spelling; lowbit.formats spells floats as ml_dtypes and torch do."""

    @property
    def bits(self) -> int:
        """Bits of one packed code."""

    @property
    def levels(self) -> int:
        """How many codes are in use; log2 is the information content in bits."""

    @property
    def max(self) -> float:
        """The largest finite number."""

    @property
    def min(self) -> float:
        """The smallest (most negative) finite number."""

    @property
    def min_positive(self) -> float:
        """The smallest positive number; infinity where there is none (int1 holds -1 and 0)."""

    @property
    def top(self) -> float:
        """The number that ``absmax`` maps the largest magnitude of a block to."""

    @property
    def step_at_top(self) -> float:
        """The distance of the two largest magnitudes."""

    @property
    def identity(self) -> str:
        """Name and digest of the definition; equal formats have equal identities."""

    def encode(
        self,
        y: Tensor,
        rounding: Rounding = nearest_even,
        noise: Tensor | None = None,
        table: Tensor | None = None,
        overflow: Overflow = "saturate",
    ) -> Tensor:
        """Codes of numbers in units of the format: uint8 up to 8 bits, int32 above; the shape of y."""

    def decode(self, codes: Tensor, table: Tensor | None = None) -> Tensor:
        """float32 numbers of codes; ``table`` picks one of several alternative tables, broadcast against codes."""
