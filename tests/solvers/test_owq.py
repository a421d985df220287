"""OWQ keeps the columns that matter, where it loses much less for few bytes; bytes are counted."""

import torch

from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.owq import OWQ


def test_loud_inputs_are_kept_and_the_rest_gains(problem, lost):
    W, H = problem(48, 64)
    loud = torch.ones(64, dtype=torch.float64).index_fill(0, torch.tensor([5, 40]), 30)
    H, q = H * loud * loud[:, None], quantizer("int3 g32")
    plain, kept = (OWQ(columns=k).solve(W, q, {"gram": H}, Key()) for k in (0, 2))
    assert kept.terms[1].index.tolist() == [5, 40]
    assert lost(W, kept.dequantize(), H) < 0.25 * lost(W, plain.dequantize(), H)
    assert kept.nbytes == OWQ(columns=2).nbytes(q, (48, 64))
