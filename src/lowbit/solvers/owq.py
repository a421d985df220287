"""OWQ: the few columns whose errors would cost most stay in float16, and take up what the others lose."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.formats.minifloat import float16
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import cast
from lowbit.quantizers.weight import Indexed, Weight
from lowbit.solvers.gptq import GPTQ
from lowbit.solvers.solver import Solver
from lowbit.threads import one_thread

LEE = Source(
    "OWQ: Outlier-Aware Weight Quantization for Efficient Fine-Tuning and Inference of Large Language Models",
    "Lee, Jin, Kim, Kim, Park",
    2023,
    "arXiv:2306.02272",
    parts="section 3.2: weak columns by lambda_j = H_jj ||dW_j||^2",
    departs="One number of columns for all layers. Kept columns are refitted in closed form after the others are rounded.",
)


@register("solver", "owq", LEE)
@dataclass(frozen=True)
class OWQ(Solver):
    """V_k = W_k + (W - Q) H_k H_kk^-1 for the kept columns k, with Q the inner solver's answer to all the others."""

    inner: Solver = GPTQ()
    columns: int = 4
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        H, rest, others = stats["gram"], W.float().clone(), stats["gram"].clone()
        lost = (quantizer.quantize(rest).dequantize() - rest).double().square().sum(0) * H.diagonal()
        k = lost.topk(min(self.columns, len(H))).indices.sort().values
        rest[:, k], others[k], others[:, k] = 0, 0, 0  # they are no part of the inner solver's problem
        begun = self.inner.solve(rest, quantizer, {**stats, "gram": others}, key)
        left = rest - begun.dequantize()
        with one_thread():
            moved = torch.linalg.lstsq(H[k][:, k], (left.index_fill(1, k, 0).double() @ H[:, k]).mT).solution.mT
        values = W[:, k] + left[:, k] + moved.float()
        kept = Indexed(k, cast(float16).quantize(values), 1, (W.shape[0], W.shape[1]), cast(float16))
        return Weight((*begun.terms, kept), (*begun.quantizers, None))

    def nbytes(self, quantizer: Quantizer, shape: tuple[int, ...]) -> int:
        kept = min(self.columns, shape[1])
        return self.inner.nbytes(quantizer, shape) + kept * (4 + 2 * shape[0])
