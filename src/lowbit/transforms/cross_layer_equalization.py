"""Cross-layer equalization: two products in a row get equal ranges in each channel between them; needs no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.philox import Key
from lowbit.transforms.transform import Edge, Scaled, Transform

NAGEL = Source(
    "Data-Free Quantization Through Weight Equalization and Bias Correction",
    "Nagel, van Baalen, Blankevoort, Welling",
    2019,
    "arXiv:1906.04721",
    parts="section 4.1, Eq. 11",
    departs="One pass over the model in order of execution; the paper repeats it until it has converged.",
)


@register("transform", "cross_layer_equalization", NAGEL, aliases=("cle",))
@dataclass(frozen=True)
class CrossLayerEqualization(Transform):
    """s_i = sqrt(r1_i / r2_i) with r1_i = max|W1[i, :]| of the producer and r2_i = max|W2[:, i]| of the readers: both become one."""

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Scaled | None:
        if edge.source is None:
            return None
        r1, r2 = edge.source.double().abs().amax(1), edge.weight_absmax().double()
        s = torch.where((r1 > 0) & (r2 > 0), (r1 / r2).sqrt(), 1.0)
        return Scaled(edge.shared(s.float()))
