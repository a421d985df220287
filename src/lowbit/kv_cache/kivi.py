"""KIVI: keys share scales over tokens, channel by channel; values over channels, token by token."""

from __future__ import annotations

from dataclasses import dataclass

from lowbit.catalog import Source, register
from lowbit.errors import DataError
from lowbit.kv_cache.kv_cache import KVCache
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.spec import quantizer

LIU = Source(
    "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache",
    "Liu, Yuan, Jin, Zhong, Xu, Braverman, Chen, Hu",
    2024,
    "arXiv:2402.02750",
    parts="section 3.2, Algorithm 1",
    departs="Values leave the recent tokens in groups as keys do, not one by one.",
)


@register("kv_cache", "kivi", LIU)
@dataclass(frozen=True)
class KIVI(KVCache):
    """Integers with zero points; ``group`` tokens of a channel of the keys share a scale, and ``group`` channels of a token of the values.

    Args:
        bits: of both.
        group: 32 as in the paper.
        recent: tokens kept as they are, 128 as in the paper.
    """

    bits: int = 2
    group: int = 32
    recent: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8 or self.group < 1 or self.recent < 0:
            where = f"kivi:bits={self.bits}:group={self.group}:recent={self.recent}"
            raise DataError(f"{where}: 1 to 8 bits, a group of 1 or more, recent 0 or more")

    def quantizers(self, layer: int) -> tuple[Quantizer, Quantizer]:
        return by_channel(self.bits, self.group), by_token(self.bits, self.group)


def by_channel(bits: int, group: int) -> Quantizer:
    """Integers with a scale and zero point for ``group`` tokens of each channel."""
    return quantizer(f"int{bits} {group}x1 asym")


def by_token(bits: int, group: int) -> Quantizer:
    """Integers with a scale and zero point for ``group`` channels of each token."""
    return quantizer(f"int{bits} g{group} asym")
