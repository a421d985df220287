"""Minifloats are those of ml_dtypes, torch and gfloat, bit for bit; where a definition differs on purpose, the test says exactly where."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import lowbit
from lowbit import catalog
from lowbit.errors import UnsupportedError
from lowbit.formats.minifloat import bfloat16, float8_e4m3fn, float8_e8m0fnu, float16, from_name, minifloat
from lowbit.kernels.op import backend
from lowbit.quantizers.spec import format_named
from lowbit.rounding.ieee754 import nearest_even

ml_dtypes = pytest.importorskip("ml_dtypes")

FLOAT8 = ["e4m3fn", "e5m2", "e4m3", "e3m4", "e4m3fnuz", "e5m2fnuz", "e4m3b11fnuz"]
WITHOUT_NAN = ["float6_e3m2fn", "float6_e2m3fn", "float4_e2m1fn"]
SIGNED = [f"float8_{name}" for name in FLOAT8] + WITHOUT_NAN
FLOAT16_INPUTS = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def theirs(name):
    return getattr(ml_dtypes, name)


def encode(fmt, x, overflow="saturate", rounding=nearest_even):
    return fmt.encode(torch.from_numpy(np.ascontiguousarray(x)), rounding, overflow=overflow).numpy()


def numbers_of(name):
    """The finite numbers by ml_dtypes' own decoding, ascending, float64."""
    codes = np.arange(1 << (8 if "float8" in name else 6 if "float6" in name else 4), dtype=np.uint8)
    numbers = codes.view(theirs(name)).astype(np.float64)
    return np.unique(numbers[np.isfinite(numbers)])


def hard_inputs(name):
    """All float16 numbers, every midpoint (also those beyond the ends), and the float32 neighbours of each on both sides."""
    numbers = numbers_of(name)
    ends = np.concatenate([[2 * numbers[0] - numbers[1], 2 * numbers[0]], numbers, [2 * numbers[-1] - numbers[-2], 2 * numbers[-1]]])
    ends.sort()
    with np.errstate(over="ignore"):
        middle = ((ends[1:] + ends[:-1]) / 2).astype(np.float32)
        return np.concatenate(
            [
                FLOAT16_INPUTS,
                middle,
                np.nextafter(middle, np.float32(np.inf)),
                np.nextafter(middle, np.float32(-np.inf)),
                ends.astype(np.float32),
            ]
        )


@pytest.mark.parametrize("name", [*SIGNED, "float8_e8m0fnu"])
def test_every_code_decodes_as_in_ml_dtypes(name):
    fmt = catalog.find("format", name)
    codes = np.arange(len(fmt.values), dtype=np.uint8)
    want = codes.view(theirs(name)).astype(np.float32)
    got = fmt.decode(torch.from_numpy(codes)).numpy()
    nan = np.isnan(want)
    assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(got.view(np.uint32)[~nan], want.view(np.uint32)[~nan])  # Inf and the sign of zero included
    if nan.sum() > 1:
        assert np.array_equal(np.signbit(got)[nan], np.signbit(want)[nan])


@pytest.mark.parametrize("name", SIGNED)
def test_special_overflow_encodes_as_ml_dtypes(name):
    x = hard_inputs(name)
    if name in WITHOUT_NAN:
        x = x[~np.isnan(x)]
    with np.errstate(invalid="ignore"):
        want = x.astype(theirs(name)).view(np.uint8)
    assert np.array_equal(encode(catalog.find("format", name), x, "special"), want)


@pytest.mark.parametrize("name", SIGNED)
def test_saturation_is_clipping_before_the_conversion(name):
    x = hard_inputs(name)
    numbers = numbers_of(name).astype(np.float32)
    x = x[~np.isnan(x)]
    with np.errstate(invalid="ignore"):
        want = np.clip(x, numbers[0], numbers[-1]).astype(theirs(name)).view(np.uint8)
    assert np.array_equal(encode(catalog.find("format", name), x, "saturate"), want)


@pytest.mark.parametrize("name", [f"float8_{name}" for name in FLOAT8])
@pytest.mark.parametrize("overflow", ["saturate", "special"])
def test_a_nan_gets_the_quiet_nan_of_its_sign(name, overflow):
    x = np.array([np.nan, -np.nan], dtype=np.float32)
    assert np.array_equal(encode(catalog.find("format", name), x, overflow), x.astype(theirs(name)).view(np.uint8))


@pytest.mark.parametrize("name", WITHOUT_NAN)
def test_a_format_without_nan_takes_zero_for_it(name):
    """ml_dtypes takes -0 for +NaN and +0 for -NaN; here it is +0, since the scale of the block is NaN anyway."""
    assert encode(catalog.find("format", name), np.array([np.nan, -np.nan], dtype=np.float32)).tolist() == [0, 0]


# ---- e8m0: numbers without zero and sign


def test_e8m0_is_that_of_ml_dtypes_for_positive_numbers():
    """Ties go up; one interval differs: ml_dtypes and torch take (2**-127, 1.5 * 2**-127) to 2**-126, the nearest number is 2**-127."""
    x = hard_inputs("float8_e8m0fnu")
    x = x[x > 0]
    apart = (x > 2.0**-127) & (x < 1.5 * 2.0**-127)
    with np.errstate(invalid="ignore"):
        want = x.astype(ml_dtypes.float8_e8m0fnu).view(np.uint8)
    got = encode(float8_e8m0fnu, x, "special")
    assert np.array_equal(got[~apart], want[~apart])
    assert apart.any() and set(got[apart]) == {0} and set(want[apart]) == {1}


def test_e8m0_answers_for_what_it_cannot_hold():
    x = np.array([0.0, -0.0, -1.0, -np.inf, 1e-45, 2.0**-127, np.inf, np.nan, -np.nan, 1.5 * 2.0**127], dtype=np.float32)
    assert encode(float8_e8m0fnu, x, "special").tolist() == [255, 255, 255, 255, 0, 0, 255, 255, 255, 255]
    with np.errstate(invalid="ignore"):
        assert np.array_equal(encode(float8_e8m0fnu, x, "special"), x.astype(ml_dtypes.float8_e8m0fnu).view(np.uint8))
    # saturating, a scale is never negative, zero or infinite: the nearest end is taken
    assert encode(float8_e8m0fnu, x, "saturate").tolist() == [0, 0, 0, 0, 0, 0, 254, 255, 255, 254]


def test_e8m0_keeps_every_power_of_two():
    powers = np.exp2(np.arange(-127.0, 128.0)).astype(np.float32)
    assert encode(float8_e8m0fnu, powers).tolist() == list(range(255))


# ---- torch


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_torch_casts_to_float8_agree(name):
    """torch overflows to Inf or NaN, but newer versions saturate e4m3fn, Inf included; its NaN payloads are its own."""
    x = torch.from_numpy(hard_inputs(name))
    x = x[~x.isnan()]
    want = x.to(getattr(torch, name))
    saturates = torch.tensor([math.inf]).to(getattr(torch, name)).float().isfinite().item()
    assert name == "float8_e4m3fn" or not saturates
    codes = catalog.find("format", name).encode(x, overflow="saturate" if saturates else "special")
    got = codes.view(getattr(torch, name))
    nan = want.float().isnan()
    assert torch.equal(got.float().isnan(), nan)
    assert torch.equal(codes[~nan], want.view(torch.uint8)[~nan])


def float32_inputs(fmt, seed=0, count=400_000):
    """Random bit patterns (NaN left out), float32 subnormals, midpoints of random neighbours and what lies around them."""
    g = torch.Generator().manual_seed(seed)
    patterns = torch.randint(-(2**31), 2**31, (count,), generator=g).to(torch.int32).view(torch.float32)
    tiny = torch.randint(-(2**23), 2**23, (20_000,), generator=g).to(torch.int32).view(torch.float32)
    numbers = fmt.decode(torch.arange(1 << 16, dtype=torch.int32)).double()
    numbers = numbers[torch.isfinite(numbers)].unique()
    middle = ((numbers[1:] + numbers[:-1]) / 2).float()
    end = torch.tensor([float(fmt.max) * (1 + k / 2**14) for k in range(-40, 41)], dtype=torch.float64).float()
    around = torch.cat((middle, end, -end))
    above, below = (torch.nextafter(around, torch.tensor(v)) for v in (math.inf, -math.inf))
    x = torch.cat((patterns, tiny, around, above, below, torch.tensor([0.0, -0.0, math.inf, -math.inf])))
    return x[~x.isnan()]


@pytest.mark.parametrize("fmt, dtype", [(float16, torch.float16), (bfloat16, torch.bfloat16)], ids=["float16", "bfloat16"])
class TestSixteenBits:
    def test_every_code_decodes_as_in_torch(self, fmt, dtype):
        codes = torch.arange(1 << 16, dtype=torch.int32)
        want = codes.to(torch.uint16).view(dtype).float()
        got = fmt.decode(codes)
        nan = want.isnan()
        assert torch.equal(got.isnan(), nan)
        assert torch.equal(got[~nan].view(torch.int32), want[~nan].view(torch.int32))

    def test_encoding_is_the_cast_of_torch(self, fmt, dtype):
        x = float32_inputs(fmt)
        want = x.to(dtype).view(torch.int16).int() & 0xFFFF
        assert torch.equal(fmt.encode(x, overflow="special"), want)

    def test_saturation_is_clipping_before_the_cast(self, fmt, dtype):
        x = float32_inputs(fmt, seed=1, count=50_000)
        top = torch.finfo(dtype).max
        want = x.clamp(-top, top).to(dtype).view(torch.int16).int() & 0xFFFF
        assert torch.equal(fmt.encode(x), want)

    def test_float64_input_is_rounded_once(self, fmt, dtype):
        """A number a hair above a midpoint goes up; through float32 it would be a tie and go to even."""
        top = float(fmt.decode(torch.tensor([0x3C00 if dtype == torch.float16 else 0x3F80])))
        assert top == 1.0
        step = torch.finfo(dtype).eps
        y = torch.tensor([1 + step / 2 + 2.0**-40, 1 + step / 2], dtype=torch.float64)
        assert fmt.decode(fmt.encode(y)).tolist() == [1 + step, 1.0]
        assert fmt.decode(fmt.encode(y.float())).tolist() == [1.0, 1.0]

    def test_a_nan_is_quiet(self, fmt, dtype):
        codes = fmt.encode(torch.tensor([math.nan, -math.nan]))
        mantissa = 10 if dtype == torch.float16 else 7
        assert [c & (1 << mantissa) - 1 for c in codes.tolist()] == [1 << mantissa - 1] * 2
        assert [c >> 15 for c in codes.tolist()] == [0, 1]


# ---- gfloat, which has every rounding mode but to odd

GFLOAT = {
    "float8_e4m3fn": "format_info_ocp_e4m3",
    "float8_e5m2": "format_info_ocp_e5m2",
    "float6_e2m3fn": "format_info_ocp_e2m3",
    "float6_e3m2fn": "format_info_ocp_e3m2",
    "float4_e2m1fn": "format_info_ocp_e2m1",
    "q1.6": "format_info_ocp_int8",
    "float16": "format_info_binary16",
}
MODES = {
    "nearest_even": "TiesToEven",
    "nearest_away": "TiesToAway",
    "toward_zero": "TowardZero",
    "up": "TowardPositive",
    "down": "TowardNegative",
}


@pytest.mark.parametrize("name", GFLOAT)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("overflow", ["saturate", "special"])
def test_gfloat_rounds_alike(name, mode, overflow):
    gfloat = pytest.importorskip("gfloat")
    formats = pytest.importorskip("gfloat.formats")
    info = getattr(formats, GFLOAT[name])
    fmt = catalog.find("format", name)
    if not fmt.has_nan and overflow == "special":
        overflow = "saturate"  # gfloat refuses to overflow where there is neither Inf nor NaN; ours saturates all the same
    if name == "float16":
        x = float32_inputs(fmt, seed=2, count=20_000).numpy()
    else:
        x = np.concatenate([FLOAT16_INPUTS[np.isfinite(FLOAT16_INPUTS)], np.array([1e30, -1e30, 1e-40, -1e-40], dtype=np.float32)])
    want = gfloat.round_ndarray(info, x.astype(np.float64), getattr(gfloat.RoundMode, MODES[mode]), sat=overflow == "saturate")
    codes = fmt.encode(torch.from_numpy(x), catalog.find("rounding", mode), overflow=overflow)
    got = fmt.decode(codes).double().numpy()
    assert np.array_equal(np.isnan(got), np.isnan(want))
    assert np.array_equal(got[~np.isnan(got)].view(np.int64), want[~np.isnan(got)].view(np.int64))


# ---- the family


@pytest.mark.parametrize(
    "name, exponent, mantissa, bias, specials",
    [("e4m3fn", 4, 3, None, "fn"), ("e3m5f", 3, 5, None, "numbers"), ("e5m2b20", 5, 2, 20, "ieee"), ("e2m3b1.5fnuz", 2, 3, 1.5, "fnuz")],
)
def test_names_of_the_family(name, exponent, mantissa, bias, specials):
    again = minifloat(name, exponent, mantissa, bias=bias, specials=specials)
    assert from_name(name) == again and from_name(name).name == name


def test_unsigned_members_have_no_negative_number():
    fmt = from_name("ue4m4")
    assert fmt.bits == 8 and fmt.min == 0.0 and fmt.max == 2.0**7 * (1 + 15 / 16)
    assert fmt.decode(fmt.encode(torch.tensor([-3.0, -0.0, 0.6]))).tolist() == [0.0, 0.0, 0.59375]


@pytest.mark.parametrize("exponent, mantissa", [(2, 1), (3, 2), (4, 3), (5, 2), (2, 5), (1, 3), (5, 0)])
def test_the_values_are_the_formula(exponent, mantissa):
    """Own enumeration with rational numbers: subnormals first, then each binade."""
    bias = 2 ** (exponent - 1) - 1
    unit = Fraction(2) ** (1 - bias - mantissa)
    positive = [Fraction(m) * unit for m in range(2**mantissa)]
    for e in range(2**exponent - 1):
        positive += [(2**mantissa + m) * unit * 2**e for m in range(2**mantissa)]
    fmt = minifloat("any", exponent, mantissa, specials="numbers")
    assert [Fraction(v) for v in fmt.values[: len(positive)]] == positive
    assert [Fraction(v) for v in fmt.values[len(positive) :]] == [-v for v in positive]
    assert math.copysign(1.0, fmt.values[len(positive)]) == -1.0


def test_without_mantissa_the_next_number_is_the_double():
    """e5m0 ends at 2**15; what rounds to 2**16 overflows, and a tie goes to the even code."""
    fmt = from_name("e5m0fnuz")
    top = fmt.max
    codes = fmt.encode(torch.tensor([1.4999 * top, 1.5001 * top]), overflow="special")
    assert fmt.decode(codes).tolist()[0] == top and math.isnan(fmt.decode(codes).tolist()[1])


@pytest.mark.parametrize(
    "name, message",
    [
        ("e9m9", "e9m9: 9 exponent and 9 mantissa bits; a minifloat has 1 or more and at most 16 bits in all"),
        ("e0m3", "e0m3: 0 exponent and 3 mantissa bits"),
        ("e5m2b-2000", "e5m2b-2000: a bias of -2000 leads beyond the numbers of float32"),
        ("e5m2b-200", "format 'e5m2b-200' holds 8.03469e+59, which float32 cannot"),
        ("e5m2b180", "format 'e5m2b180' holds 3.26265e-55, which float32 cannot"),
    ],
)
def test_a_format_that_cannot_be_is_refused(name, message):
    with pytest.raises(UnsupportedError) as error:
        from_name(name)
    assert str(error.value).startswith(message)


def test_other_names_are_none_of_the_family():
    assert from_name("int4") is None and from_name("e4m3fnx") is None


def test_aliases():
    assert catalog.find("format", "e4m3fn") is float8_e4m3fn and catalog.find("format", "bf16") is bfloat16


@pytest.mark.parametrize("name, dtype, least", [("e5m10", torch.float16, 2.0**-14), ("e8m7", torch.bfloat16, 2.0**-126)])
def test_without_subnormal_numbers(name, dtype, least):
    """As torch's cast, but what is below the smallest normal number is zero before anything is rounded."""
    fmt = format_named(f"{name}_ftz")
    assert fmt.min_positive == least and fmt.levels == 2**16 - 2 * (2 ** int(name.partition("m")[2]) - 1)
    halves = torch.arange(1 << 16).to(torch.int32).to(torch.int16).view(dtype).float()
    x = torch.cat([halves, torch.nextafter(halves, torch.tensor(torch.inf)), torch.nextafter(halves, torch.tensor(0.0)), torch.randn(9999)])
    x = x[torch.isfinite(x) & (x.abs() < torch.finfo(dtype).max)]
    expected = torch.where(x.abs() < least, torch.copysign(torch.zeros(()), x), x.to(dtype).float())
    found = fmt.decode(fmt.encode(x))
    assert torch.equal(found, expected) and torch.equal(torch.signbit(found), torch.signbit(expected))
    with backend("cpu"):
        assert torch.equal(lowbit.fake_quantize(x, f"{name}_ftz"), expected)
    assert fmt.decode(fmt.encode(torch.tensor([torch.inf]), overflow="special")).item() == torch.inf
    assert fmt.decode(fmt.encode(torch.tensor([least / 4]), catalog.find("rounding", "up"))).item() == least
