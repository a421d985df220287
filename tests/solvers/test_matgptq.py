"""MatGPTQ: the best of all 256 codes by brute force, a slow sweep, and slices that are better than those of codes of 8 bits."""

import pytest
import torch

from lowbit.errors import DataError, ShapeError, UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.matryoshka import slice_tensor
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.gptq import GPTQ, inverse_factor
from lowbit.solvers.matgptq import MatGPTQ, _choices
from lowbit.solvers.solver import solver, text


def slices(widths, master=8):
    """Of every code, by the paper's formula."""
    found = []
    for r in widths:
        values = []
        for q in range(1 << master):
            d = master - r
            t = q if d == 0 else min((q >> d) + ((q >> (d - 1)) & 1), 2**r - 1)
            values.append(t << d)
        found.append(values)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("widths", [(3, 4, 8), (8,), (2,), (2, 4, 6), (4, 8), (2, 3, 4, 5, 6, 7, 8)])
def test_the_envelope_finds_the_best_of_all_codes(widths):
    v = slices(widths)
    choice = _choices(8, widths, torch.device("cpu"))
    y = torch.cat((torch.linspace(-20, 280, 5001), torch.arange(-3.0, 260.0, 0.5)))
    found = choice.codes[torch.bucketize(y, choice.cuts, right=True)]
    losses = (y.double()[:, None, None] - v[None]).square().sum(1)
    assert torch.allclose(losses.gather(1, found[:, None])[:, 0], losses.amin(1), rtol=1e-6, atol=1e-4)
    assert torch.allclose(choice.mean.double(), v.mean(0))


@pytest.mark.parametrize("spec", ["int8 g32 scale=float32", "uint8 g32 asym scale=float32"])
def test_it_is_a_slow_sweep(problem, spec):
    """Column after column in float64 with all 256 codes tried."""
    W, H = problem(6, 64)
    grid = quantizer(spec).grid(W)
    scale = grid.scale.repeat_interleave(32, 1).double()
    zero = torch.full_like(scale, 128.0) if grid.zero is None else grid.zero.repeat_interleave(32, 1).double()
    perm = H.diagonal().argsort(descending=True, stable=True)
    U = inverse_factor(H, 0.01, perm).double()
    v, work = slices((3, 4, 8)), W.double()[:, perm].clone()
    codes = torch.zeros(6, 64, dtype=torch.int64)
    for j, column in enumerate(perm.tolist()):
        s, z = scale[:, column], zero[:, column]
        every = s[:, None, None] * (v.mT[None] - z[:, None, None])
        best = (work[:, j, None, None] - every).square().sum(2).argmin(1)
        codes[:, column] = best
        error = (work[:, j] - every[torch.arange(6), best].mean(1)) / U[j, j]
        work[:, j + 1 :] -= error[:, None] * U[j, j + 1 :]
    found = MatGPTQ().solve(W, quantizer(spec), {"gram": H}, Key()).terms[0].codes.int()
    unsigned = found if grid.zero is not None else found ^ 128
    equal = (unsigned.long() == codes).float().mean()
    assert equal > 0.97, "numbers near a cut may go either way in float32"


def test_its_slices_are_better_than_those_of_codes_of_8_bits(problem, lost):
    """At 3 bits by a sixth, and below GPTQ of 3 bits itself; a little at 4; 6 bits, which it was not made for, lie between 4 and 8."""
    W, H = problem(48, 128)
    q = quantizer("int8 g32")
    plain, nested = (s.solve(W, q, {"gram": H}, Key()).terms[0] for s in (GPTQ(), MatGPTQ()))
    at = {bits: [lost(W, slice_tensor(t, bits).dequantize(), H) for t in (plain, nested)] for bits in (3, 4, 6)}
    assert at[3][1] < 0.85 * at[3][0] and at[4][1] < at[4][0]
    whole = lost(W, nested.dequantize(), H)
    assert whole < at[6][1] < at[4][1] < at[3][1]
    own = {bits: lost(W, GPTQ().solve(W, quantizer(f"int{bits} g32"), {"gram": H}, Key()).dequantize(), H) for bits in (3, 4)}
    assert at[3][1] < own[3] and at[4][1] < 1.6 * own[4]


def test_threads_do_not_matter_and_the_weight_stays(problem):
    W, H = problem(96, 256)
    copy, before, found = W.clone(), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(MatGPTQ().solve(W, quantizer("int8 g32"), {"gram": H}, Key()).packed())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])
    assert torch.equal(W, copy)


def test_zero_rows_and_dead_inputs(problem):
    W, H = problem()
    W[2] = 0
    H[9], H[:, 9] = 0, 0
    found = MatGPTQ().solve(W, quantizer("int8 g32"), {"gram": H}, Key()).dequantize()
    assert bool(torch.isfinite(found).all()) and not found[2].any()


def test_what_does_not_fit_is_named(problem):
    W, H = problem()
    for spec, words in (("nvfp4", "slices integers, nvfp4 holds none"), ("int4 g32", "slices integers, int4 g32 holds none")):
        with pytest.raises(UnsupportedError, match=words):
            MatGPTQ().nbytes(quantizer(spec), (8, 64))
    assert MatGPTQ().nbytes(quantizer("int8 g32"), (8, 64)) == quantizer("int8 g32").nbytes((8, 64))
    with pytest.raises(UnsupportedError, match="matgptq slices int8, or uint8 with a zero point, not"):
        MatGPTQ().solve(W, quantizer("int8 g32 hqq"), {"gram": H}, Key())
    with pytest.raises(ShapeError, match="but W has 32 inputs"):
        MatGPTQ().solve(W[:, :32], quantizer("int8 g32"), {"gram": H}, Key())
    for spec in ("matgptq:bits=3+x", "matgptq:damping=0"):
        with pytest.raises(DataError, match=r"widths are like 3\+4\+8, the damping is above 0"):
            solver(spec)
    assert solver("matgptq:bits=2+8").widths == (2, 8) and text(MatGPTQ("2+8")) == "matgptq:bits=2+8"
