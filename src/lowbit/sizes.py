"""Sizes in bytes, as people write them: ``500MB``, ``2GB``, ``1.5GiB``."""

from __future__ import annotations

import re
from fractions import Fraction

from lowbit.errors import SpecError

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def size(words: str) -> int:
    """Bytes of a size with a unit.

    Raises:
        SpecError: it is no size, or not above 0.
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([a-zA-Z]*)\s*", words)
    factor = UNITS.get(match[2].lower()) if match else None
    count = 0 if match is None or factor is None else int(Fraction(match[1]) * factor)
    if count <= 0:
        raise SpecError(f"{words!r} is no size above 0; write 500MB or 2GB")
    return count
