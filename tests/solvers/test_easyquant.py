"""The search finds the best cosine of its candidates, and no row gets worse."""

import pytest
import torch

from lowbit.errors import DataError, UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.easyquant import EasyQuant
from lowbit.solvers.rtn import RTN


def problem():
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(200, 32, generator=draw) @ torch.randn(32, 32, generator=draw)
    W = torch.randn(12, 32, generator=draw)
    W[:, 3] *= 4
    return W, X


def cosines(W, Q, X):
    return torch.cosine_similarity(W @ X.mT, Q @ X.mT, dim=1)


@pytest.mark.parametrize("spec", ["int4 row scale=float32", "int3 g16", "e2m1 row", "int6 row"])
def test_every_row_points_at_least_as_well(spec):
    W, X = problem()
    H, q = X.double().mT @ X.double(), quantizer(spec)
    nearest = RTN().solve(W, q, {}, Key()).dequantize()
    found = EasyQuant().solve(W, q, {"gram": H}, Key()).dequantize()
    before, after = cosines(W, nearest, X), cosines(W, found, X)
    assert bool((after >= before - 1e-5).all())
    if "6" not in spec:
        assert float((1 - after).mean()) < 0.97 * float((1 - before).mean())


def test_the_best_of_all_candidates_by_hand():
    W, X = problem()
    H = X.double().mT @ X.double()
    found = EasyQuant(0.5, 2.0, 7).solve(W, quantizer("int4 row scale=float32"), {"gram": H}, Key()).dequantize()
    for row, q in zip(W, found, strict=True):
        s0 = row.abs().max() / 7
        options = []
        for multiple in [1.0, *torch.linspace(0.5, 2, 7).tolist()]:
            s = s0 / multiple
            options.append((row / s).round().clamp(-8, 7) * s)
        best = max(options, key=lambda o: float(torch.cosine_similarity(X @ row, X @ o, dim=0)))
        torch.testing.assert_close(q, best, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused():
    W, X = problem()
    stats = {"gram": X.double().mT @ X.double()}
    with pytest.raises(UnsupportedError, match="without zero points"):
        EasyQuant().solve(W, quantizer("int4 g16 asym"), stats, Key())
    with pytest.raises(DataError, match="0 < low < high"):
        EasyQuant(2.0, 0.5)
