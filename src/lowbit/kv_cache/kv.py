"""Any quantizer for keys, any for values."""

from __future__ import annotations

from dataclasses import dataclass

from lowbit.catalog import Source, register
from lowbit.errors import DataError, UnsupportedError
from lowbit.kv_cache.kv_cache import KVCache
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.spec import quantizer

SHENG = Source(
    "FlexGen: High-Throughput Generative Inference of Large Language Models with a Single GPU",
    "Sheng, Zheng, Yuan, Li, Ryabinin, Chen, Liang, Re, Stoica, Zhang",
    2023,
    "arXiv:2303.06865",
    parts="section 4.3 (keys and values in group-wise integers)",
    departs="Quantizers are the user's; by default int4 in groups of 64 with zero points, as there.",
)


@register("kv_cache", "kv", SHENG)
@dataclass(frozen=True)
class KV(KVCache):
    """Keys and values each by a spec string: ``kv:keys=(nvfp4):values=(int2 g32 asym)``.

    Args:
        keys, values: spec strings of quantizers for (batch, heads, tokens, head_dim); ``none`` keeps them as they are.
        group: tokens quantized at once.
        recent: tokens kept as they are.
    """

    keys: str = "int4 g64 asym"
    values: str = "int4 g64 asym"
    group: int = 32
    recent: int = 0

    def __post_init__(self) -> None:
        if self.group < 1 or self.recent < 0:
            raise DataError(f"kv:group={self.group}:recent={self.recent}: a group of 1 or more, recent 0 or more")
        self.quantizers(0)

    def quantizers(self, layer: int) -> tuple[Quantizer | None, Quantizer | None]:
        keys, values = (None if spec == "none" else quantizer(spec) for spec in (self.keys, self.values))
        for each in (keys, values):
            if getattr(getattr(each, "rounding", None), "noisy", False):
                raise UnsupportedError("a cache with a rounding that draws noise, which attention does not do; take another rounding")
        return keys, values
