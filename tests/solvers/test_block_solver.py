"""The contract, on every block solver that the catalogue holds."""

import pytest
import torch

from lowbit import catalog
from lowbit.errors import DataError, UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.adaround import AdaRound
from lowbit.solvers.block_solver import BlockSolver
from lowbit.solvers.gptq import GPTQ
from lowbit.solvers.qep import QEP
from lowbit.solvers.rtn import RTN
from lowbit.solvers.signround import SignRound
from lowbit.solvers.solver import solver, text

MEMBERS = [e.name for e in catalog.entries("solver") if issubclass(e.thing, BlockSolver)]
#: int4 and float codes, scales of scales, a zero point, an offset
SPECS = ("int3 g32", "int4 tensor", "nvfp4", "mxfp4 even", "int2 g32 asym", "int4 g32 hqq offset=float16")


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("spec", SPECS)
def test_a_block_loses_less_than_when_rounded_to_nearest(toy, name, spec):
    """And what is returned is packed in the bytes that were promised, on the grid of the quantizer."""
    found = toy.solved(type(solver(name))(checks=6), spec)
    assert set(found) == {"first", "second"}
    assert toy.lost({k: w.dequantize() for k, w in found.items()}) <= toy.lost(toy.nearest(spec))
    for key, weight in found.items():
        assert weight.nbytes == solver(name).nbytes(quantizer(spec), tuple(toy.weights[key].shape))
        again = quantizer(spec).unpack(weight.terms[0].packed(), weight.shape)
        assert torch.equal(again.dequantize(), weight.dequantize())


@pytest.mark.parametrize("name", MEMBERS)
def test_it_gains_at_3_bits(toy, name):
    """A tenth at least, with three times the usual steps."""
    value = solver(name)
    found = toy.solved(type(value)(steps=3 * value.steps))
    assert toy.lost({k: w.dequantize() for k, w in found.items()}) < 0.9 * toy.lost(toy.nearest())


@pytest.mark.parametrize("name", MEMBERS)
def test_threads_and_repetition_change_no_bit_and_weights_stay(toy, name):
    before, copies, found = torch.get_num_threads(), {k: w.clone() for k, w in toy.weights.items()}, []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            found.append({k: w.packed() for k, w in toy.solved(type(solver(name))(steps=7, batch=5)).items()})
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(part, other[k][p]) for k, parts in found[0].items() for p, part in parts.items())
    assert all(torch.equal(w, copies[k]) for k, w in toy.weights.items())


@pytest.mark.parametrize("name", MEMBERS)
def test_the_seed_decides_which_sequences_are_seen(toy, name):
    one, two = (toy.solved(type(solver(name))(steps=40), seed=seed) for seed in (0, 1))
    assert any(not torch.equal(one[k].dequantize(), two[k].dequantize()) for k in one)


@pytest.mark.parametrize("name", MEMBERS)
def test_rows_of_zeros_and_inputs_that_are_always_zero(toy, name):
    toy.weights["first"][3] = 0
    toy.weights["second"][:, :32] = 0
    for sample in toy.samples:
        sample.args[0][..., 5] = 0
    found = {k: w.dequantize() for k, w in toy.solved(type(solver(name))(steps=7)).items()}
    assert not found["first"][3].any() and not found["second"][:, :32].any()
    assert all(bool(torch.isfinite(w).all()) for w in found.values())


@pytest.mark.parametrize("name", MEMBERS)
def test_a_weight_alone_goes_to_the_start(toy, name):
    value, W = solver(name), toy.weights["first"]
    assert torch.equal(value.solve(W, quantizer("int4 g32"), {}, Key()).dequantize(), quantizer("int4 g32").quantize(W).dequantize())


@pytest.mark.parametrize("name", MEMBERS)
def test_what_it_cannot_serve_is_refused_before_any_work(name):
    with pytest.raises(UnsupportedError, match="no such table; take the solver rtn"):
        solver(name).nbytes(quantizer("bitmod3 g64"), (8, 64))
    with pytest.raises(UnsupportedError, match="decides how weights are rounded, so the quantizer cannot; leave out round="):
        solver(name).nbytes(quantizer("int4 g32 round=stochastic"), (8, 64))


@pytest.mark.parametrize("name", MEMBERS)
def test_parameters_are_checked(name):
    for spec in ("steps=0", "batch=0", "checks=0"):
        with pytest.raises(DataError, match="each is at least 1"):
            solver(f"{name}:{spec}")
    with pytest.raises(UnsupportedError, match="target=stream: the target of a block is what the model gives"):
        solver(f"{name}:target=stream")
    with pytest.raises(UnsupportedError, match="starts with a solver of single weights"):
        solver(f"{name}:start={name}")


def test_a_block_of_hifloat4(toy):
    """Its blocks are of 64, so the toy is one of 128 inner channels."""
    g = torch.Generator().manual_seed(1)
    toy.weights.update(first=torch.randn(128, 64, generator=g) / 8, second=torch.randn(64, 128, generator=g) / 10)
    samples = [s._replace(target=toy.forward(toy.weights, s)) for s in toy.samples]
    toy = toy._replace(samples=samples)
    for value in (SignRound(learn="rounding"), AdaRound()):
        found = toy.solved(value, "hif4")
        assert toy.lost({k: w.dequantize() for k, w in found.items()}) < 0.9 * toy.lost(toy.nearest("hif4"))


def test_hifloat4_has_no_range_to_move_but_its_codes_can_be_learned(toy):
    """Its grid chooses codes with a rounded reciprocal, so a weight may lie a little outside of what its neighbours decode to."""
    with pytest.raises(UnsupportedError, match="has no scale that could be moved alone; write signround:learn=rounding"):
        SignRound().nbytes(quantizer("hif4"), (8, 64))


def test_what_a_run_must_carry():
    assert SignRound().calibrated and SignRound().two_streams and not SignRound(target="block").two_streams
    assert SignRound(start=QEP(), target="block").two_streams and not SignRound(start=GPTQ(), target="block").two_streams
    assert not RTN().calibrated and GPTQ().calibrated and not GPTQ().two_streams and QEP().two_streams


def test_spec_strings():
    assert solver("signround:start=(qep:strength=1)") == SignRound(start=QEP(strength=1.0))
    assert text(SignRound(start=QEP(strength=1.0), steps=50)) == "signround:start=(qep:strength=1.0):steps=50"
