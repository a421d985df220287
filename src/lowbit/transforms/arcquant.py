"""ARCQuant: channels in the order of their largest magnitude, and the rounding errors of the last ones quantized once more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError
from lowbit.philox import Key
from lowbit.quantizers.augmented import Augmented
from lowbit.quantizers.quantizer import Quantizer
from lowbit.transforms.transform import Change, Edge, Transform

MENG = Source(
    "ARCQuant: Boosting NVFP4 Quantization with Augmented Residual Channels for LLMs",
    "Meng, Luo, Zhao, Liu, Zhang, Ma",
    2026,
    "arXiv:2601.07475",
    parts="the order of channels, the residual channels and the rule for their number",
    departs="Magnitudes are compared without their signs, where the released code compares signed numbers. Weights are stored once: the "
    "copied columns are those of a product of one format, ours adds what the errors decode to before it multiplies.",
    records=("arcquant",),
)


@dataclass(frozen=True, eq=False)
class Permuted(Change, kind="permuted"):
    """x' = x[order]: the same numbers in another order.

    Shapes:
        order   (channels,) int32
    """

    order: Tensor

    def online(self, x: Tensor) -> Tensor:
        return x[..., self.order.long()]

    def consumer(self, W: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return W[..., self.order.long()].contiguous(), b

    def inverse(self) -> Permuted:
        return Permuted(self.order.long().argsort().to(torch.int32))

    def parts(self) -> dict[str, Tensor]:
        return {"order": self.order}


@register("transform", "arcquant", MENG)
@dataclass(frozen=True)
class ARCQuant(Transform):
    """y = [Q(x), Q(x - Q(x)) of the last S channels] [W, W of these columns]^T, channels sorted by their largest magnitude.

    S is ``multiple`` * ceil(C f / multiple), f being the share of numbers above ``threshold`` times the largest of their token.

    Args:
        threshold: in (0, 1).
        multiple: of the channels that are taken.
        channels: S itself for every edge, at most C; 0 leaves it to the rule.
    """

    threshold: float = 0.125
    multiple: int = 64
    channels: int = 0
    needs: ClassVar[tuple[str, ...]] = ("absmax", "rows")
    absorbed: ClassVar[bool] = False
    of_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1 or self.multiple < 1 or self.channels < 0:
            where = f"arcquant:threshold={self.threshold}:multiple={self.multiple}:channels={self.channels}"
            raise DataError(f"{where}: the threshold is in (0, 1), the multiple 1 or more, channels 0 or more")

    def count(self, edge: Edge, rows: Tensor) -> int:
        """The number of residual channels."""
        x = rows.abs()
        share = float((x > self.threshold * x.amax(1, keepdim=True)).double().mean())
        return min(edge.channels, self.channels or self.multiple * -(-round(edge.channels * share * 1e6) // round(self.multiple * 1e6)))

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Permuted | None:
        if edge.activations is None:
            return None
        return Permuted(stats["absmax"].argsort(stable=True).to(torch.int32))

    def inputs(self, edge: Edge, stats: Mapping[str, Tensor]) -> Quantizer | None:
        count = self.count(edge, stats["rows"])
        return Augmented(edge.activations, count) if edge.activations is not None and count else None
