"""Scheme: candidates, nested scales, centres, importance, frozen outer levels, and the bytes of it all."""

import pytest
import torch

from lowbit.blocks import Blocks
from lowbit.errors import CheckpointError, ShapeError, UnsupportedError
from lowbit.formats.integer import INTEGERS
from lowbit.formats.minifloat import float4_e2m1fn, float8_e4m3fn, float16
from lowbit.philox import Key, noise
from lowbit.quantizers.nvfp4 import nvfp4
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.quantizers.spec import quantizer
from lowbit.rounding.stochastic import stochastic
from lowbit.scaling.absmax import absmax
from lowbit.scaling.scaling import Affine, step
from lowbit.testing.quantizers import check_quantizer, sample

pytestmark = pytest.mark.usefixtures("every_backend")

int4 = INTEGERS["int4"]
X = sample((8, 64))


def shares(*factors):
    """A scaling with candidates: absmax times each factor."""

    def scaling(blocks, fmt, importance=None):
        return [Affine(blocks.abs().amax(-1) / fmt.top * f) for f in factors]

    return scaling


def squared(q, x):
    return (q.dequantize() - x).reshape(8, 4, 16).square().sum(-1)


class TestCandidates:
    def test_each_block_keeps_the_best(self):
        alone = [Scheme(int4, Blocks((16,)), shares(f)).quantize(X) for f in (1.0, 0.8, 0.6)]
        errors = torch.stack([squared(q, X) for q in alone])
        both = Scheme(int4, Blocks((16,)), shares(1.0, 0.8, 0.6)).quantize(X)
        assert torch.equal(squared(both, X), errors.amin(0))
        assert len(errors.argmin(0).unique()) > 1

    def test_the_first_wins_a_tie(self):
        both = Scheme(int4, Blocks((16,)), shares(2.0, 1.0)).quantize(torch.zeros(8, 64))
        assert both.grid.scale.tolist() == [[0.0] * 4] * 8

    def test_candidates_are_compared_as_stored(self):
        """With scales in a coarse format the best as stored is not the best in float32."""
        coarse = cast(quantizer("table(0.1;0.5;1;2;4)").format)
        factors = (1.0, 0.9, 0.8, 0.7, 0.6)
        found = Scheme(int4, Blocks((16,)), shares(*factors), scale_quantizer=coarse).quantize(X)
        stored = torch.stack([squared(Scheme(int4, Blocks((16,)), shares(f), scale_quantizer=coarse).quantize(X), X) for f in factors])
        assert torch.equal(squared(found, X), stored.amin(0))

    def test_nested_levels_are_those_of_the_largest_candidate(self):
        nested = Scheme(float8_e4m3fn, Blocks(None), absmax)
        found = Scheme(float4_e2m1fn, Blocks((16,)), shares(0.5, 1.0), scale_quantizer=nested).grid(X)
        plain = Scheme(float4_e2m1fn, Blocks((16,)), shares(1.0), scale_quantizer=nested).grid(X)
        assert torch.equal(found.scale.grid.scale, plain.scale.grid.scale)

    def test_importance_weights_the_errors(self):
        weights = torch.zeros(8, 64)
        weights[:, ::16] = 1.0
        q = Scheme(int4, Blocks((16,)), shares(1.0, 0.8, 0.6))
        alone = torch.stack(
            [
                ((Scheme(int4, Blocks((16,)), shares(f)).quantize(X).dequantize() - X).square() * weights).reshape(8, 4, 16).sum(-1)
                for f in (1.0, 0.8, 0.6)
            ]
        )
        found = ((q.quantize(X, importance=weights).dequantize() - X).square() * weights).reshape(8, 4, 16).sum(-1)
        assert torch.equal(found, alone.amin(0))
        row = torch.ones(64)
        assert torch.equal(q.quantize(X, importance=row).codes, q.quantize(X).codes)


def test_a_scale_that_underflows_is_zero_and_so_are_its_codes():
    """1e-9 / 7 is below the smallest float16."""
    q = Scheme(int4, Blocks((16,)), absmax, scale_quantizer=cast(float16)).quantize(torch.full((1, 16), 1e-9))
    assert q.grid.scale.dequantize().tolist() == [[0.0]] and q.codes.tolist() == [[0] * 16] and q.dequantize().tolist() == [[0.0] * 16]


def test_a_centre_is_subtracted_and_stored():
    q = Scheme(int4, Blocks((16,)), absmax, center=Blocks((0,)))
    x = X + torch.arange(8.0).unsqueeze(-1) * 10
    found = q.quantize(x)
    mean = x.double().mean(-1, keepdim=True).float()
    assert torch.equal(found.grid.offset, mean)
    assert torch.equal(found.grid.scale, (x - mean).reshape(8, 4, 16).abs().amax(-1) / 7)
    assert (found.dequantize() - x).abs().max() < 1.0
    stored = Scheme(int4, Blocks((16,)), absmax, center=Blocks((0,)), offset_quantizer=cast(float16))
    assert stored.nbytes((8, 64)) == 8 * 32 + 8 * 4 * 4 + 8 * 2
    check_quantizer(stored)


def test_the_centre_of_a_ragged_block_counts_its_own_elements():
    q = Scheme(int4, Blocks((3,), ragged=True), absmax, center=Blocks((3,), ragged=True))
    assert q.grid(torch.tensor([[3.0, 3.0, 3.0, 5.0]])).offset.tolist() == [[3.0, 5.0]]


def test_offsets_of_a_scaling_are_stored():
    """In units of x, by a quantizer of their own."""

    def midrange(blocks, fmt, importance=None):
        low, high = blocks.amin(-1), blocks.amax(-1)
        return Affine(step(low, high, fmt.levels - 1), offset=low)

    q = Scheme(INTEGERS["uint4"], Blocks((16,)), midrange, scale_quantizer=cast(float16), offset_quantizer=cast(float16))
    found = q.quantize(X)
    low = X.reshape(8, 4, 16).amin(-1)
    assert torch.equal(found.grid.offset.dequantize(), low.half().float())
    assert q.nbytes((8, 64)) == 8 * 32 + 2 * 32 * 2
    check_quantizer(q)


def test_a_group_is_refitted_under_a_frozen_tensor_scale():
    """Part of a tensor quantized anew, its scales on the grid of the whole tensor's scales, and no other."""
    outer = nvfp4.grid(X).scale.grid
    part = X[2:4] * 0.5
    found = nvfp4.grid(part, outer=outer)
    assert torch.equal(found.scale.grid.scale, outer.scale)
    assert not torch.equal(nvfp4.grid(part).scale.grid.scale, outer.scale)
    unchanged = nvfp4.grid(X[2:4], outer=outer)
    assert torch.equal(unchanged.scale.codes, nvfp4.grid(X).scale.codes[2:4])


def test_noise_is_needed_and_used():
    q = Scheme(float4_e2m1fn, Blocks((16,)), absmax, stochastic)
    with pytest.raises(UnsupportedError, match="stochastic rounding needs noise; pass noise="):
        q.quantize(X)
    one, two = (q.quantize(X, noise=noise(Key(seed), (8, 64))).codes for seed in (0, 1))
    assert not torch.equal(one, two)
    assert torch.equal(q.quantize(X, noise=noise(Key(0), (8, 64))).codes, one)


def test_blocks_that_do_not_divide_are_refused_before_anything_is_computed():
    with pytest.raises(ShapeError, match="axis 1 has 60 elements, not a multiple of the block 16; 4 divides it, or say 'ragged'"):
        nvfp4.quantize(torch.zeros(8, 60))
    with pytest.raises(ShapeError, match="not a multiple of the block 16"):
        nvfp4.nbytes((8, 60))


def test_float64_input_is_not_rounded_first():
    x = torch.tensor([[7.0, 2.5 + 2.0**-40]], dtype=torch.float64)
    assert Scheme(int4, Blocks((0,)), absmax).quantize(x).codes.tolist() == [[7, 3]]
    assert Scheme(int4, Blocks((0,)), absmax).quantize(x).dequantize().dtype == torch.float32


def test_a_cast_has_no_scale():
    q = cast(float8_e4m3fn).quantize(X * 1000)
    assert q.grid.scale is None and q.dequantize().max() == 448.0 and cast(float8_e4m3fn).nbytes((8, 64)) == 512
    special = cast(float8_e4m3fn, overflow="special").quantize(torch.tensor([1e6]))
    assert bool(special.dequantize().isnan().all())


def test_unpacking_checks_the_parts():
    parts = nvfp4.quantize(X).packed()
    with pytest.raises(CheckpointError, match=r"the parts 'scale.\*' are missing; there are \['codes'\]"):
        nvfp4.unpack({k: v for k, v in parts.items() if not k.startswith("scale")}, (8, 64))
    with pytest.raises(CheckpointError, match="512 codes of 4 bits take 256 bytes"):
        nvfp4.unpack(parts | {"codes": parts["codes"][:-1]}, (8, 64))
    with pytest.raises(CheckpointError, match=r"the part 'scale' should be float32 of shape \(\)"):
        nvfp4.unpack(parts | {"scale.scale": torch.ones(2)}, (8, 64))
    bitmod = quantizer("bitmod4").quantize(sample((2, 128)))
    with pytest.raises(CheckpointError, match="the part 'table' is missing"):
        quantizer("bitmod4").unpack({k: v for k, v in bitmod.packed().items() if k != "table"}, (2, 128))


def test_it_is_a_quantizer():
    assert isinstance(nvfp4, Quantizer)


def test_equal_schemes_are_equal_and_print():
    assert Scheme(int4, Blocks((16,)), absmax) == Scheme(int4, Blocks((1, 16)), absmax)
    assert hash(Scheme(int4, Blocks((16,)), absmax)) == hash(Scheme(int4, Blocks((16,)), absmax))
    assert "int4" in repr(Scheme(int4, Blocks((16,)), absmax))
