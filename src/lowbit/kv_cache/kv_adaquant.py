"""KV-AdaQuant: more bits for keys than for values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError
from lowbit.kv_cache.kivi import by_channel, by_token
from lowbit.kv_cache.kv_cache import KVCache
from lowbit.quantizers.quantizer import Quantizer

HARIRI = Source(
    "More for Keys, Less for Values: Adaptive KV Cache Quantization",
    "Hariri, Luo, Chen, Zhong, Zhang, Wang, Hu, Han, Chaudhary",
    2025,
    "arXiv:2502.15075",
    parts="section 4 (keys in 4 bits, values in 2)",
    departs="The split for other budgets, b_K - b_V = log2(||K|| / ||V||), is derived from its bound, not stated in it.",
    records=("kv-adaquant",),
)


@register("kv_cache", "kv_adaquant", HARIRI)
@dataclass(frozen=True)
class KVAdaQuant(KVCache):
    """Integers with zero points, keys and values in different widths.

    Args:
        keys, values: bits.
        layout: keys share a scale over ``token`` (a group of channels of a token) or ``channel`` (a group of tokens of a channel, KIVI's).
        group: channels or tokens that share a scale, and tokens quantized at once.
        recent: tokens kept as they are.
    """

    keys: int = 4
    values: int = 2
    layout: Literal["token", "channel"] = "token"
    group: int = 32
    recent: int = 128

    def __post_init__(self) -> None:
        if (
            not (1 <= self.keys <= 8 and 1 <= self.values <= 8)
            or self.layout not in ("token", "channel")
            or self.group < 1
            or self.recent < 0
        ):
            where = f"kv_adaquant:keys={self.keys}:values={self.values}:layout={self.layout}:group={self.group}:recent={self.recent}"
            raise DataError(f"{where}: 1 to 8 bits, the layout token or channel, a group of 1 or more, recent 0 or more")

    def quantizers(self, layer: int) -> tuple[Quantizer, Quantizer]:
        keys = by_token if self.layout == "token" else by_channel
        return keys(self.keys, self.group), by_token(self.values, self.group)


def split(keys: Tensor, values: Tensor, total: int) -> tuple[int, int]:
    """Bits of keys and values that add up to ``total``, each at least 1, with b_K - b_V nearest to log2(||K|| / ||V||).

    Raises:
        DataError: fewer than 2 bits, or numbers that are all zero.
    """
    k, v = float(keys.double().norm()), float(values.double().norm())
    if total < 2 or not k > 0 or not v > 0:
        raise DataError(f"{total} bits for keys of norm {k:g} and values of norm {v:g}; give 2 or more, and norms above 0")
    b = min(max(round((total + math.log2(k / v)) / 2), 1), total - 1)
    return b, total - b
