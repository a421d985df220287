"""LoRC: Eckart and Young, for the weight and for its outputs; bytes; what is refused."""

import numpy as np
import pytest
import torch

from lowbit.errors import DataError, ShapeError, UnsupportedError
from lowbit.nn.packed import PackedWeight
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.gptq import GPTQ
from lowbit.solvers.lorc import LoRC, compensation
from lowbit.solvers.qep import QEP
from lowbit.solvers.rtn import RTN
from lowbit.solvers.solver import solver, text


def test_without_fit_it_leaves_the_smallest_singular_values(problem):
    """||E - L R||^2 is the sum of the squares of those after the rank."""
    E = problem(24, 64)[0].double()
    L, R = compensation(E, torch.eye(64, dtype=torch.float64), 5, "none")
    values = np.linalg.svd(E.numpy(), compute_uv=False)
    assert float((E - L @ R).square().sum()) == pytest.approx((values[5:] ** 2).sum(), rel=1e-9)
    assert tuple(L.shape) == (24, 5) and tuple(R.shape) == (5, 64)


def test_with_the_gram_matrix_it_is_the_best_for_the_outputs(problem, lost):
    """Eckart and Young for E X: the squares of its singular values after the rank; no random product of that rank loses less."""
    W, H = problem(24, 64)
    E = W.double()
    L, R = compensation(E, H, 5, "gram")
    root = np.linalg.cholesky(H.numpy())
    values = np.linalg.svd(E.numpy() @ root, compute_uv=False)
    least = lost(E, L @ R, H)
    assert least == pytest.approx((values[5:] ** 2).sum(), rel=1e-4)
    for fit in ("none", "diagonal"):
        assert lost(E, torch.matmul(*compensation(E, H, 5, fit)), H) > least


@pytest.mark.parametrize("inner", [GPTQ(), RTN()], ids=["gptq", "rtn"])
def test_more_rank_gives_more_back(problem, lost, inner):
    W, H = problem(48, 64)
    q = quantizer("int3 g32")
    losses = {}
    for fit in ("none", "diagonal", "gram"):
        found = [lost(W, LoRC(inner, r, fit).solve(W, q, {"gram": H}, Key()).dequantize(), H) for r in (1, 8, 24)]
        assert found[0] > found[1] > found[2]
        losses[fit] = found[1]
    plain = lost(W, inner.solve(W, q, {"gram": H}, Key()).dequantize(), H)
    assert losses["gram"] < losses["none"] < plain
    assert losses["gram"] < 0.8 * plain, "rank 8 gives back more than a fifth"


def test_bytes_are_counted_and_a_checkpoint_holds_it(problem):
    W, H = problem(24, 64)
    for rank in (4, 100):
        value = LoRC(rank=rank)
        weight = value.solve(W, quantizer("nvfp4"), {"gram": H}, Key())
        assert weight.nbytes == value.nbytes(quantizer("nvfp4"), (24, 64))
        again = PackedWeight.of(weight).unpacked()
        assert torch.equal(again.dequantize(), weight.dequantize())


def test_inputs_and_weights_of_zeros(problem):
    W, H = problem(24, 64)
    H[3], H[:, 3] = 0, 0
    W[5] = 0
    for fit in ("none", "diagonal", "gram"):
        found = LoRC(fit=fit).solve(W, quantizer("int4 g32"), {"gram": H}, Key()).dequantize()
        assert bool(torch.isfinite(found).all())
    nothing = torch.zeros(64, 64, dtype=torch.float64)
    for fit in ("none", "diagonal", "gram"):
        assert bool(torch.isfinite(LoRC(RTN(), fit=fit).solve(W, quantizer("int4 g32"), {"gram": nothing}, Key()).dequantize()).all())


def test_threads_do_not_matter(problem):
    W, H = problem(96, 256)
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(LoRC(fit="gram").solve(W, quantizer("int3 g32"), {"gram": H}, Key()).packed())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_what_does_not_fit_is_named(problem):
    W, H = problem()
    with pytest.raises(ShapeError, match="but W has 32 inputs"):
        LoRC().solve(W[:, :32], quantizer("int4 g32"), {"gram": H}, Key())
    with pytest.raises(UnsupportedError, match="lorc goes around a solver that needs the Gram matrix at most"):
        LoRC(QEP())
    for spec in ("lorc:rank=0", "lorc:fit=rows"):
        with pytest.raises(DataError, match="the rank is at least 1, the fit none, diagonal or gram"):
            solver(spec)
    assert solver("lorc:inner=rtn:factors=(int8 g32)") == LoRC(RTN(), factors="int8 g32")
    assert text(LoRC(RTN(), 4)) == "lorc:inner=rtn:rank=4"


def test_few_tokens_are_no_obstacle_and_a_matrix_that_is_none_is_named(problem):
    W, H = problem(24, 64, tokens=5)
    assert bool(torch.isfinite(LoRC(fit="gram").solve(W, quantizer("int4 g32"), {"gram": H}, Key()).dequantize()).all())
    with pytest.raises(UnsupportedError, match="the Gram matrix of 64 inputs has no Cholesky factor even with damping 0.01; use lorc:fit="):
        LoRC(RTN(), fit="gram").solve(W, quantizer("int4 g32"), {"gram": torch.diag(torch.tensor([-1.0, 2.0] * 32).double())}, Key())
