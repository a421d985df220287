"""Static ranges: the scale of the inputs' whole tensor is found on calibration data and stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.errors import DataError, UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.grid import QTensor, dense
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme
from lowbit.quantizers.spec import text
from lowbit.scaling.delayed import Delayed
from lowbit.transforms.transform import Change, Edge, Transform

WU = Source(
    "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation",
    "Wu, Judd, Zhang, Isaev, Micikevicius",
    2020,
    "arXiv:2004.09602",
    parts="sections 3.1 and 3.4 (calibrated ranges of activations), symmetric",
    departs="Rules that need more than the extremes (mse, percentile, entropy) see 16 rows of each sequence. Where inputs are large, rows "
    "may keep scales of their own, as in FPTQ (arXiv:2308.15987, section 3.3).",
    records=("int8-principles", "fptq"),
)


@register("transform", "static", WU)
@dataclass(frozen=True)
class Static(Transform):
    """Leaves numbers as they are; their quantizer gets the scale that its rule finds on the calibration data, for all tokens to come.

    What is fixed is the scale of the whole tensor: that of ``int8 tensor``, the outer one of ``nvfp4``. It stands last in a chain.

    Args:
        high: where the largest magnitude is at least this, each row gets a scale of its own each time; FPTQ has 150.
    """

    high: float = float("inf")
    needs: ClassVar[tuple[str, ...]] = ("extremes", "rows")
    of_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.high > 0:
            raise DataError(f"static:high={self.high}: it is above 0")

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Change | None:
        """Leaves every edge alone."""
        return None

    def inputs(self, edge: Edge, stats: Mapping[str, Tensor]) -> Quantizer | None:
        quantizer = edge.activations
        if not isinstance(quantizer, Scheme) or not (_whole(quantizer) or _whole(quantizer.scale_quantizer)):
            said = "inputs" if quantizer is None else text(quantizer)
            raise UnsupportedError(f"{said} have no scale of the whole tensor that could be fixed; 'int8 tensor', 'nvfp4' have one")
        if _whole(quantizer) and float(stats["extremes"].abs().max()) >= self.high:
            return replace(quantizer, blocks=Blocks((0,)))
        return fixed(quantizer, stats["extremes"] if getattr(quantizer.scaling, "extremes", False) else stats["rows"])


def _whole(quantizer: Quantizer | None) -> bool:
    """Whether it has one scale for a whole tensor."""
    return isinstance(quantizer, Scheme) and quantizer.scaling is not None and quantizer.blocks.size is None


def fixed(quantizer: Scheme, sample: Tensor) -> Scheme | None:
    """The quantizer with the scale of the whole tensor that it finds for a sample; None where that is zero.

    Raises:
        UnsupportedError: its rule also gives zero points or other things that would have to be fixed.
    """
    grid = quantizer.grid(sample)
    if any(v is not None for v in (grid.zero, grid.offset, grid.negative, grid.table)):
        raise UnsupportedError(f"{text(quantizer)} has more than one scale to fix; take symmetric inputs, as 'int8 tensor'")
    if _whole(quantizer):
        assert grid.scale is not None
        rule = _rule(dense(grid.scale), quantizer.format.top)
        return None if rule is None else replace(quantizer, scaling=rule)
    outer = quantizer.scale_quantizer
    assert isinstance(outer, Scheme) and isinstance(grid.scale, QTensor) and grid.scale.grid.scale is not None
    rule = _rule(dense(grid.scale.grid.scale), outer.format.top)
    return None if rule is None else replace(quantizer, scale_quantizer=replace(outer, scaling=rule))


def _rule(scale: Tensor, top: float) -> Delayed | None:
    """The rule that gives this scale again."""
    largest = float(scale) * top
    return Delayed(float(torch.tensor(largest, dtype=torch.float32))) if largest else None
