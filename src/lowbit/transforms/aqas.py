"""AQAS: one scale a channel, searched with weights and inputs both quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError
from lowbit.philox import Key
from lowbit.transforms.loss import output_loss
from lowbit.transforms.smoothquant import balanced
from lowbit.transforms.transform import Edge, Scaled, Transform

LEE = Source(
    "Enhancing Computation Efficiency in Large Language Models through Weight and Activation Quantization",
    "Lee, Kim, Baek, Hwang, Sung, Choi",
    2023,
    "arXiv:2311.05161",
    parts="section 3.2 (activation-quantization-aware scaling)",
    departs="The candidates are SmoothQuant's for exponents in equal steps, and none at all.",
    records=("dint-aqas",),
)


@register("transform", "aqas", LEE)
@dataclass(frozen=True)
class AQAS(Transform):
    """argmin over s of ||Q_w(W diag s) Q_x(diag(s)^-1 X) - W X||^2, s = max|X|^a / max|W|^(1 - a).

    Args:
        grid: exponents a that are tried, from 0 to 1.
    """

    grid: int = 21
    needs: ClassVar[tuple[str, ...]] = ("absmax", "rows")

    def __post_init__(self) -> None:
        if self.grid < 2:
            raise DataError(f"aqas:grid={self.grid}: take 2 exponents or more")

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Scaled | None:
        if edge.producer is None:
            return None
        rows, range_ = stats["rows"], edge.weight_absmax()
        ones = Scaled(range_ * 0 + 1)
        tried = [Scaled(edge.shared(balanced(stats["absmax"], range_, i / (self.grid - 1)))) for i in range(self.grid)]
        best = min([ones, *tried], key=lambda change: output_loss(edge, rows, change))
        return None if best is ones else best
