"""What the types must be able to say: each case of the literature as an expression, with a figure or an identity to hold it to."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from lowbit import catalog
from lowbit.blocks import Blocks
from lowbit.formats.integer import INTEGERS
from lowbit.formats.minifloat import float4_e2m1fn, float8_e4m3fn, float16
from lowbit.formats.table import TableFormat
from lowbit.philox import Key, noise
from lowbit.quantizers.grid import Grid, QTensor, unpack_codes
from lowbit.quantizers.nvfp4 import nvfp4
from lowbit.quantizers.quantizer import Quantizer, bits_per_element
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.quantizers.spec import quantizer
from lowbit.quantizers.weight import Indexed, LowRank, Weight
from lowbit.rounding.rounding import Rounding
from lowbit.scaling.absmax import absmax
from lowbit.scaling.scaling import Affine, amax, step
from lowbit.scaling.sign_split import sign_split
from lowbit.testing.quantizers import check_quantizer, sample

pytestmark = pytest.mark.usefixtures("every_backend")

uint4, int4 = INTEGERS["uint4"], INTEGERS["int4"]
fp3 = TableFormat("fp3", (0.0, 1.0, 2.0, 4.0, -0.0, -1.0, -2.0, -4.0))
TENSOR_E4M3 = Scheme(float8_e4m3fn, Blocks(None), absmax)


def normal(groups=8000, size=128):
    return torch.randn(groups, size, generator=torch.Generator().manual_seed(0))


def student(freedom=5, groups=8000, size=128):
    return torch.from_numpy(np.random.default_rng(0).standard_t(freedom, (groups, size)).astype(np.float32))


def relative_error(q, x, importance=None):
    y = q.quantize(x, importance).dequantize()
    return ((y - x).double().square().sum() / x.double().square().sum()).item()


# ---- scale rules


@pytest.mark.parametrize(
    "spec, expected", [("nvfp4", 0.00904), ("mxfp4 floor", 0.0132), ("mxfp4 even", 0.0125), ("mxfp4 ceil", 0.0208), ("mxfp4 rceil", 0.0133)]
)
def test_block_floats_on_normal_numbers(spec, expected):
    assert relative_error(quantizer(spec), normal()) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    "element, data, symmetric, split",
    [
        (float4_e2m1fn, normal, 0.0119, 0.0112),
        (fp3, normal, 0.0571, 0.0513),
        (float4_e2m1fn, student, 0.0154, 0.0127),
        (fp3, student, 0.0964, 0.0738),
    ],
    ids=["fp4 normal", "fp3 normal", "fp4 student", "fp3 student"],
)
def test_afpq_has_a_scale_for_each_sign(element, data, symmetric, split):
    """2311.01792, groups of 128: errors without and with it."""
    tolerance = 0.01 if data is normal else 0.05
    for rule, expected in ((absmax, symmetric), (sign_split, split)):
        q = Scheme(element, Blocks((128,)), rule, scale_quantizer=cast(float16))
        assert relative_error(q, data()) == pytest.approx(expected, rel=tolerance)
    assert bits_per_element(q, (8, 128)) == element.bits + 2 * 16 / 128


def bitmod(base, bits):
    """The code of -0 stands for one of four special values."""
    tables = [tuple(special if v == 0 and math.copysign(1, v) < 0 else v for v in base.values) for special in bits]
    return TableFormat(f"{base.name}_special", tables[0], alternatives=tuple(tables[1:]))


@pytest.mark.parametrize(
    "fmt, data, expected",
    [
        (bitmod(float4_e2m1fn, (5.0, -5.0, 8.0, -8.0)), normal, 0.0096),
        (bitmod(float4_e2m1fn, (5.0, -5.0, 8.0, -8.0)), student, 0.0117),
        (bitmod(fp3, (3.0, -3.0, 6.0, -6.0)), normal, 0.0381),
    ],
    ids=["fp4 normal", "fp4 student", "fp3 normal"],
)
def test_bitmod_chooses_a_table_for_each_group(fmt, data, expected):
    """2411.11745: the scale changes with the table, and the least error as stored wins."""
    q = Scheme(fmt, Blocks((128,)), absmax, scale_quantizer=cast(float16))
    assert relative_error(q, data()) == pytest.approx(expected, rel=0.05)
    assert bits_per_element(q, (8, 128)) == fmt.bits + (16 + 2) / 128
    assert len(q.grid(data()).table.unique()) == 4
    check_quantizer(q, ((4, 256),))


def test_four_over_six_is_two_candidates():
    """2512.02010: a block's maximum becomes 6 or 4."""

    def six_or_four(blocks, fmt, importance=None):
        return [Affine(amax(blocks) / torch.tensor(top)) for top in (6.0, 4.0)]

    q = Scheme(float4_e2m1fn, Blocks((16,)), six_or_four, scale_quantizer=TENSOR_E4M3)
    assert relative_error(q, normal()) == pytest.approx(0.0077, rel=0.02)
    assert relative_error(nvfp4, normal()) == pytest.approx(0.0091, rel=0.01)
    check_quantizer(q, ((4, 256),))


# ---- grids of their own


@dataclass(frozen=True)
class HiF4(Quantizer):
    """2604.08826: 64 numbers under an e6m2, one exponent bit for 8 and one for 4 of them, elements s1p2, codes chosen with a reciprocal."""

    def grid(self, x, importance=None, outer=None):
        v8, v4, v64 = (amax(Blocks((n,)).split(x)) for n in (8, 4, 64))
        one = Grid(E6M2, Blocks((1,)), tuple(v64.shape)).choose((v64 * torch.tensor(1 / 7).bfloat16()).bfloat16().float())
        r = (1 / one.dequantize()).bfloat16().float()
        e2 = (v8 * r.repeat_interleave(8, -1) >= 4).float()
        e3 = (v4 * r.repeat_interleave(16, -1) / (1 + e2.repeat_interleave(2, -1)) >= 2).float()
        two = Grid(ONE_OR_TWO, Blocks((8,)), tuple(v8.shape), scale=one).choose((1 + e2) * one.dequantize().repeat_interleave(8, -1))
        scale2 = two.dequantize().repeat_interleave(2, -1)
        three = Grid(ONE_OR_TWO, Blocks((2,)), tuple(v4.shape), scale=two).choose((1 + e3) * scale2)
        inverse = r.repeat_interleave(16, -1) / (1 + e2.repeat_interleave(2, -1)) / (1 + e3)
        return Grid(S1P2, Blocks((4,)), tuple(x.shape), scale=three, inverse=inverse)

    def quantize(self, x, importance=None, noise=None):
        return self.grid(x.float()).choose(x.float(), catalog.find("rounding", "nearest_away"))

    def nbytes(self, shape):
        return 36 * math.prod(Blocks((64,)).counts(shape))

    def unpack(self, parts, shape):
        stored = None
        for name, fmt, blocks, inside in (
            ("scale." * 3, E6M2, 1, 64),
            ("scale." * 2, ONE_OR_TWO, 8, 8),
            ("scale.", ONE_OR_TWO, 2, 4),
            ("", S1P2, 4, 1),
        ):
            counts = Blocks((inside,)).counts(shape)
            stored = QTensor(unpack_codes(parts, name + "codes", fmt, counts), Grid(fmt, Blocks((blocks,)), counts, scale=stored))
        return stored


E6M2 = TableFormat("e6m2", (*(2.0 ** ((c >> 2) - 48) * (1 + (c & 3) / 4) for c in range(255)), math.nan))
ONE_OR_TWO = TableFormat("one or two", (1.0, 2.0))
S1P2 = TableFormat("s1p2", tuple(s * m / 4 for s in (1, -1) for m in range(8)))


def test_hif4_has_three_levels_of_scales():
    """Relative error 0.00688 on normal numbers in bfloat16, 4.5 bits a number."""
    x = normal(6000).bfloat16().float()
    assert relative_error(HiF4(), x) == pytest.approx(0.00688, rel=0.01)
    assert bits_per_element(HiF4(), (8, 128)) == 4.5
    check_quantizer(HiF4(), ((4, 256), (2, 3, 128)))
    registered = catalog.lookup("quantizer", "hifloat4")
    if registered is not None:
        assert torch.equal(registered.thing.quantize(x).dequantize(), HiF4().quantize(x).dequantize())


def test_k_quants_have_integer_scales_and_minima():
    """As Q4_K: 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum under one float16 for either; 4.5 bits."""
    minima = TableFormat("minus uint6", tuple(-float(k) for k in range(64)))

    def minimum(blocks, fmt, importance=None):
        low = blocks.amin(-1).clamp(max=0)
        return Affine(step(low, blocks.amax(-1).clamp(min=0), 15), offset=torch.where(amax(blocks).isnan(), torch.nan, low))

    def sixbit(fmt):
        return Scheme(fmt, Blocks((8,)), absmax, scale_quantizer=cast(float16))

    q = Scheme(uint4, Blocks((32,)), minimum, scale_quantizer=sixbit(INTEGERS["uint6"]), offset_quantizer=sixbit(minima))
    assert bits_per_element(q, (16, 256)) == 4.5
    x = sample((16, 256))
    found = q.quantize(x)
    # the arithmetic of ggml, written out: x = d * sc * q - dmin * m
    blocks = x.numpy().reshape(16, 8, 32)
    low = np.minimum(blocks.min(-1), 0)
    scale = (np.maximum(blocks.max(-1), 0) - low) / np.float32(15)
    d = (scale.max(-1, keepdims=True) / np.float32(63)).astype(np.float16).astype(np.float32)
    dmin = (-low.min(-1, keepdims=True) / np.float32(63)).astype(np.float16).astype(np.float32)
    sc, m = np.clip(np.round(scale / d), 0, 63), np.clip(np.round(-low / dmin), 0, 63)
    codes = np.clip(np.round((blocks + (m * dmin)[..., None]) / (sc * d)[..., None]), 0, 15)
    assert np.array_equal(found.codes.numpy().reshape(16, 8, 32), codes)
    want = codes.astype(np.float32) * (sc * d)[..., None].astype(np.float32) - (m * dmin)[..., None].astype(np.float32)
    assert np.array_equal(found.dequantize().numpy().reshape(16, 8, 32), want.astype(np.float32))
    check_quantizer(q, ((4, 256), (2, 3, 256)))


def test_nf4_double_quantization_crosses_rows():
    q = quantizer("nf4_element flat64 ragged scale=(dynamic8 flat256 ragged center=tensor scale=float32)")
    assert q == catalog.find("quantizer", "nf4")
    x = sample((5, 100))  # 500 numbers: seven blocks of 64, the last one of 52
    assert torch.equal(q.quantize(x).codes.flatten(), q.quantize(x.reshape(20, 25)).codes.flatten())


# ---- shapes and orders


def test_a_square_tile_can_be_transposed_and_a_row_of_16_cannot():
    W = sample((64, 96))
    tile = replace(nvfp4, blocks=Blocks((16, 16)))
    assert torch.equal(tile.quantize(W.T).codes, tile.quantize(W).codes.T)
    assert torch.equal(tile.quantize(W.T).dequantize(), tile.quantize(W).dequantize().T)
    assert not torch.equal(nvfp4.quantize(W.T.contiguous()).dequantize(), nvfp4.quantize(W).dequantize().T)


@pytest.mark.parametrize("shape", [(64,), (7, 64), (2, 7, 64), (2, 3, 7, 64)])
def test_activations_of_any_rank_have_one_scale_a_token(shape):
    x = sample(shape)
    q = quantizer("int8 token scale=float32").quantize(x)
    assert tuple(q.grid.scale.shape) == (*shape[:-1], 1)
    assert torch.equal(q.grid.scale, x.abs().amax(-1, keepdim=True) / 127)
    assert torch.equal(q.codes, quantizer("int8 token scale=float32").quantize(x.reshape(-1, 64)).codes.reshape(shape))


def test_kivi_keys_have_a_scale_for_32_tokens_of_a_channel():
    """2402.02750: keys in groups along the tokens, channel by channel."""
    keys = sample((2, 4, 96, 16))
    found = quantizer("uint2 32x1 minmax scale=float32").quantize(keys)
    assert tuple(found.grid.scale.shape) == (2, 4, 3, 16)
    group = keys[1, 2, 32:64, 5]
    low, high = min(group.min().item(), 0.0), max(group.max().item(), 0.0)
    assert found.grid.scale[1, 2, 1, 5].item() == pytest.approx((high - low) / 3)
    values = quantizer("uint2 g16 minmax scale=float32").quantize(keys)
    assert tuple(values.grid.scale.shape) == (2, 4, 96, 1)


def test_groups_may_be_those_of_reordered_columns():
    """GPTQ with act-order: groups of columns in the order of their importance, codes in the order of W."""
    W = sample((8, 128))
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    q = quantizer("int4 g32")
    grid = replace(q.grid(W[:, order]), order=order)
    assert torch.equal(grid.choose(W).dequantize()[:, order], q.quantize(W[:, order]).dequantize())
    back = q.unpack(grid.choose(W).packed(), (8, 128))
    assert torch.equal(back.dequantize(), grid.choose(W).dequantize())


def test_a_group_can_be_refitted_under_the_frozen_scale_of_its_tensor():
    """Column after column changes; the tensor's scale stays, so that the codes of earlier groups remain right."""
    W = sample((8, 64))
    outer = nvfp4.grid(W).scale.grid
    changed = W[:, 16:32] * 1.3
    part = nvfp4.grid(changed, outer=outer)
    assert torch.equal(part.scale.grid.scale, outer.scale)
    assert relative_error_of(part.choose(changed), changed) < 0.02


def relative_error_of(q, x):
    return ((q.dequantize() - x).square().sum() / x.square().sum()).item()


# ---- weights of several terms


def test_terms_lower_the_error():
    """A residual, a low-rank product and outlier columns kept apart, each on top of int3."""
    W = sample((64, 128))
    W[:, 7] *= 20
    int3 = quantizer("int3 g32")
    plain = int3.quantize(W)
    error = relative_error_of(plain, W)
    left = W - plain.dequantize()
    stacked = Weight((plain, int3.quantize(left)))
    U, S, V = torch.linalg.svd(left)
    low_rank = Weight((plain, LowRank(U[:, :8] * S[:8], V[:8])))
    index = torch.tensor([7])
    rest = W.clone()
    rest[:, 7] = 0
    apart = Weight((int3.quantize(rest), Indexed(index, W[:, index], 1, (64, 128))))
    assert relative_error_of(stacked, W) < 0.1 * error
    kept = 1 - (S[:8].square().sum() / S.square().sum()).item()
    assert relative_error_of(low_rank, W) == pytest.approx(kept * error, rel=1e-3)
    assert relative_error_of(apart, W) < 0.5 * error


# ---- roundings and scales that are learned


def test_adaround_is_a_rounding_by_a_given_mask():
    """2004.10568: floor(W / s) + mask, clipped; the mask takes the place of noise, so it follows the elements through any blocks."""
    W = sample((8, 64))
    mask = (noise(Key(0), (8, 64)) >> 31).bool()
    given = Rounding("given", lambda gap, words: words > 0, noisy=True)
    q = replace(quantizer("int4 g16 scale=float32"), rounding=given).quantize(W, noise=mask.long())
    scale = q.grid.scale.repeat_interleave(16, -1)
    y = W / scale
    want = torch.where(y == y.round(), y, (y.floor() + mask)).clamp(-8, 7)
    assert torch.equal(q.dequantize(), want * scale)


def test_a_scale_may_be_a_parameter():
    """LSQ: the derivative of the decoded tensor with respect to the scale is the sum of the numbers it multiplies."""
    scale = torch.nn.Parameter(torch.full((4, 2), 0.3))
    q = Grid(int4, Blocks((16,)), (4, 32), scale=scale).choose(sample((4, 32)))
    q.dequantize().sum().backward()
    assert torch.equal(scale.grad, int4.decode(q.codes).reshape(4, 2, 16).sum(-1))


def test_stochastic_codes_are_the_same_under_a_batch_split():
    x = sample((12, 64))
    q = quantizer("mxfp4 round=stochastic")
    key = Key(3, "gradient")
    whole = q.quantize(x, noise=noise(key, (12, 64)))
    for a, b in ((0, 5), (5, 6), (6, 12)):
        part = q.quantize(x[a:b], noise=noise(key, (b - a, 64), start=64 * a))
        assert torch.equal(part.codes, whole.codes[a:b])


# ---- the written answers


ANSWERS = [
    "int4 g16",
    "int4 g16 asym",
    "e2m1 g16",
    "mxfp4 g16",
    "mxfp8 g16 rceil",
    "nf4_element g16",
    "ternary g16",
    "binary g16",
    "int8 g16 mse",
    "e2m1 g16 sign_split",
]


@pytest.mark.parametrize("spec", ANSWERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_block_with_something_not_finite_is_nan_and_no_other_is(spec, bad):
    x = sample((3, 48))
    clean = quantizer(spec).quantize(x).dequantize()
    x[1, 20] = bad
    got = quantizer(spec).quantize(x).dequantize()
    want = torch.zeros(3, 48, dtype=torch.bool)
    want[1, 16:32] = True
    assert torch.equal(got.isnan(), want)
    assert torch.equal(got[~want], clean[~want])


@pytest.mark.parametrize("spec", ["nvfp4", "nf4"])
def test_where_a_level_spans_the_tensor_all_of_it_is_nan(spec):
    x = sample((4, 64))
    x[3, 3] = math.nan
    assert bool(quantizer(spec).quantize(x).dequantize().isnan().all())


@pytest.mark.parametrize("spec", [*ANSWERS, "nvfp4", "nf4", "hifloat4"])
def test_a_block_of_zeros_is_zeros(spec):
    """The others are what they are without it."""
    x = sample((2, 64))
    x[0, :] = 0.0
    x[0, ::3] = -0.0
    got = quantizer(spec).quantize(x).dequantize()
    assert bool((got[0] == 0).all()) and bool((got[1] != 0).any())


@pytest.mark.parametrize("spec", ["int4 g16", "nvfp4", "e4m3fn g16"])
def test_a_scale_that_underflows_gives_zeros(spec):
    """1e-42 beside 1: float16 and e4m3 scales are zero; no division by zero shows."""
    x = sample((2, 32))
    x[0, :16] = 1e-42
    q = quantizer(spec).quantize(x)
    assert q.codes[0, :16].tolist() == [0] * 16 and q.dequantize()[0, :16].tolist() == [0.0] * 16


def test_signed_zeros_are_kept_where_there_are_two():
    x = torch.tensor([[6.0, -0.0, 0.0, -0.01]])
    got = quantizer("e2m1 row scale=float32").quantize(x).dequantize()
    assert [math.copysign(1, v) for v in got.flatten().tolist()] == [1.0, -1.0, 1.0, -1.0] and got[0, 1:].abs().max() == 0
    got = quantizer("int4 row scale=float32").quantize(x).dequantize()
    assert [math.copysign(1, v) for v in got.flatten().tolist()] == [1.0] * 4
