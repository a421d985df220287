"""SmoothQuant: outliers of the inputs are moved into the weights, part of the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError
from lowbit.philox import Key
from lowbit.transforms.transform import Edge, Scaled, Transform

XIAO = Source(
    "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
    "Xiao, Lin, Seznec, Wu, Demouth, Han",
    2023,
    "arXiv:2211.10438",
    parts="Eq. 4",
    departs="edges=all also smooths between products (values to the output projection, up to down), which the paper does not.",
)

#: magnitudes below this count as this
LEAST = 1e-5


@register("transform", "smoothquant", XIAO)
@dataclass(frozen=True)
class SmoothQuant(Transform):
    """s_j = max|X_j|^alpha / max|W_j|^(1 - alpha); X_j / s_j goes into the norm, W_j s_j into the layers.

    Args:
        alpha: 0 evens the weights out, 1 the inputs; 0.5 as in the paper.
        edges: ``norm`` for those that a norm feeds, ``all`` also between products.
    """

    alpha: float = 0.5
    edges: Literal["norm", "all"] = "norm"
    needs: ClassVar[tuple[str, ...]] = ("absmax",)

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or self.edges not in ("norm", "all"):
            raise DataError(f"smoothquant:alpha={self.alpha}:edges={self.edges}: alpha is in [0, 1], edges are norm or all")

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Scaled | None:
        if self.edges == "norm" and edge.producer != "norm":
            return None
        return Scaled(edge.shared(balanced(stats["absmax"], edge.weight_absmax(), self.alpha)))


def balanced(inputs: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """max|X_j|^alpha / max|W_j|^(1 - alpha), at least ``LEAST``."""
    x, w = inputs.double().clamp(min=LEAST), weights.double().clamp(min=LEAST)
    return (x**alpha / w ** (1 - alpha)).clamp(min=LEAST).float()
