"""decoupleQ: the damped loss never rises, both steps help at 2 bits, and what it needs is said."""

import itertools

import pytest
import torch

from lowbit.errors import DataError, ShapeError, UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.decoupleq import DecoupleQ
from lowbit.solvers.gptq import GPTQ
from lowbit.solvers.refit import refit
from lowbit.solvers.solver import solver

OFFSET = "int2 g32 hqq offset=float16"


def damped(H, share=0.01):
    return H + share * H.diagonal().mean() * torch.eye(len(H), dtype=torch.float64)


@pytest.mark.parametrize("spec", [OFFSET, "int2 g32 asym", "int3 g32", "nvfp4", "int4 row"])
def test_the_damped_loss_never_rises(problem, lost, spec):
    """Exact, row by row and so in sum; also below that of GPTQ on the same quantizer."""
    W, H = problem(32, 128)
    losses = [lost(W, DecoupleQ(k).solve(W, quantizer(spec), {"gram": H}, Key()).dequantize(), damped(H)) for k in (1, 2, 3, 4, 8)]
    for before, after in itertools.pairwise(losses):
        assert after <= before * (1 + 1e-9)
    assert losses[-1] < losses[0]
    assert losses[0] < lost(W, GPTQ().solve(W, quantizer(spec), {"gram": H}, Key()).dequantize(), damped(H))


def test_the_refit_alone_gives_a_tenth_at_2_bits_and_iterations_more(problem, lost):
    """The record's expectation: GPTQ, then GPTQ and one refit, then four rounds."""
    W, H = problem(32, 128)
    gptq = GPTQ().solve(W, quantizer(OFFSET), {"gram": H}, Key())
    plain = lost(W, gptq.dequantize(), damped(H))
    once = lost(W, refit(W, gptq.terms[0], damped(H)).dequantize(), damped(H))
    four = lost(W, DecoupleQ().solve(W, quantizer(OFFSET), {"gram": H}, Key()).dequantize(), damped(H))
    assert once < 0.9 * plain
    assert four < 0.9 * once


def test_threads_do_not_matter_and_bytes_are_counted(problem):
    W, H = problem(96, 256)
    copy, before, found = W.clone(), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(DecoupleQ().solve(W, quantizer(OFFSET), {"gram": H}, Key()))
    finally:
        torch.set_num_threads(before)
    parts = [w.packed() for w in found]
    assert all(torch.equal(parts[0][k], parts[1][k]) for k in parts[0])
    assert torch.equal(W, copy)
    assert found[0].nbytes == DecoupleQ().nbytes(quantizer(OFFSET), tuple(W.shape))


def test_what_does_not_fit_is_named(problem):
    W, H = problem()
    with pytest.raises(UnsupportedError, match="scales are refitted where they belong to groups of a row"):
        DecoupleQ().solve(W, quantizer("hif4"), {"gram": H}, Key())
    with pytest.raises(ShapeError, match="but W has 32 inputs"):
        DecoupleQ().solve(W[:, :32], quantizer("int4 g32"), {"gram": H}, Key())
    with pytest.raises(DataError, match="at least 1 iteration, a damping above 0"):
        solver("decoupleq:damping=0")
