"""Posits against a decoder and a rounding written on strings and fractions, every code and every cut."""

from bisect import bisect_right
from fractions import Fraction
from functools import lru_cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowbit.errors import UnsupportedError
from lowbit.formats.posit import WidePosit, from_name, posit
from lowbit.philox import Key, noise
from lowbit.quantizers.spec import quantizer, text
from lowbit.rounding.ieee754 import down, nearest_away, nearest_even, toward_zero, up
from lowbit.rounding.stochastic import stochastic


def number(code, bits, es):
    """The standard's other formula, on signed words: ((1 - 3s) + f) * 2^((1 - 2s) * (2^es r + e + s)); None for NaR and 0."""
    s = code >> bits - 1 & 1
    rest = code & (1 << bits - 1) - 1
    if rest == 0:
        return Fraction(0) if not s else None
    word = [rest >> i & 1 for i in reversed(range(bits - 1))]
    k = next((i for i, b in enumerate(word) if b != word[0]), len(word))
    r = k - 1 if word[0] else -k
    tail = word[k + 1 :] + [0] * 40
    e = sum(b << es - 1 - i for i, b in enumerate(tail[:es]))
    f = sum((Fraction(b, 2 ** (i + 1)) for i, b in enumerate(tail[es:])), Fraction(0))
    return ((1 - 3 * s) + f) * Fraction(2) ** ((1 - 2 * s) * (2**es * r + e + s))


@lru_cache
def magnitudes(bits, es):
    return [number(word, bits, es) for word in range(1, 1 << bits - 1)]


def encode_exactly(y, bits, es):
    """To nearest on the bit string: between two words decides the word of one bit more; ties to the even word."""
    if y == 0:
        return 0
    size, values = abs(y), magnitudes(bits, es)
    low = bisect_right(values, size)  # how many are at most size: the word of the largest of them
    if low == 0:
        word = 1
    elif low == len(values) or values[low - 1] == size:
        word = low
    else:
        middle = number(2 * low + 1, bits + 1, es)
        word = low + (size > middle or (size == middle and low % 2 == 1))
    return (word if y > 0 else -word) & (1 << bits) - 1


SMALL = [(3, 0), (5, 1), (6, 2), (8, 0), (8, 1), (8, 2)]


@pytest.mark.parametrize(("bits", "es"), [*SMALL, (10, 1), (12, 2)])
def test_every_code_is_the_standards_number(bits, es):
    fmt = posit(bits, es)
    for code in range(1 << bits):
        want = number(code, bits, es)
        got = fmt.values[code]
        assert got != got if want is None else Fraction(got) == want


@pytest.mark.parametrize(("bits", "es"), SMALL)
def test_rounding_is_on_the_bit_string_at_every_cut_and_beside_it(bits, es):
    fmt = posit(bits, es)
    cuts = fmt.cutpoints(nearest_even, torch.float64)
    y = torch.cat((cuts, torch.nextafter(cuts, torch.tensor(-torch.inf)), torch.nextafter(cuts, torch.tensor(torch.inf))))
    want = [encode_exactly(Fraction(v), bits, es) for v in y.tolist()]
    assert fmt.encode(y).tolist() == want
    assert (WidePosit(bits, es).encode(y) & (1 << bits) - 1).tolist() == want


def test_between_regimes_the_middle_is_not_halfway():
    fmt = posit(8, 1)  # 4096 and 1024 are the largest two: the posit of nine bits between them is 2048
    assert fmt.decode(fmt.encode(torch.tensor([2047.0, 2049.0, 2560.0]))).tolist() == [1024.0, 4096.0, 4096.0]


@pytest.mark.parametrize("name", ["posit8_1", "posit16_2", "posit32_2"])
def test_nothing_finite_becomes_zero_or_nar(name):
    fmt = from_name(name)
    y = torch.tensor([1e-45, -1e-45, 3e38, -3e38, 0.0])
    for overflow in ("saturate", "special"):
        got = fmt.decode(fmt.encode(y, overflow=overflow))
        assert torch.isfinite(got).all()
        assert (got == 0).tolist() == [False, False, False, False, True]
    assert torch.isnan(fmt.decode(fmt.encode(torch.tensor([torch.inf]), overflow="special"))).all()
    assert fmt.decode(fmt.encode(torch.tensor([torch.inf, -torch.inf]))).tolist() == [fmt.max, -fmt.max]


@pytest.mark.parametrize("rounding", [nearest_even, nearest_away, toward_zero, up, down])
@pytest.mark.parametrize(("bits", "es"), [(6, 0), (8, 1), (9, 2)])
def test_arithmetic_and_table_agree_in_every_rounding(bits, es, rounding):
    table, wide = posit(bits, es), WidePosit(bits, es)
    words = noise(Key(1), (4000,)).double() / 2.0**32
    y = (words - 0.5) * torch.exp2((noise(Key(2), (4000,)) % 40 - 20).double())
    y = torch.cat((y, table.decode(torch.arange(1 << bits)).nan_to_num(0.0).double(), table.cutpoints(nearest_even, torch.float64)))
    y = y.float()
    assert torch.equal(table.encode(y, rounding).long(), wide.encode(y, rounding).long() & (1 << bits) - 1)


def test_stochastic_rounding_of_the_arithmetic_is_unbiased():
    wide = WidePosit(20, 1)
    y = torch.full((40000,), 1.0 + 2.0**-17 * 0.3)
    got = wide.decode64(wide.encode(y, stochastic, noise(Key(3), (40000,))))
    low, high = got.min().item(), got.max().item()
    assert low < y[0].item() < high and high - low == 2.0**-16
    assert abs(got.mean().item() - y[0].item()) < 0.01 * (high - low)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(17, 1), (24, 2), (32, 2), (32, 0)]))
def test_wide_words_come_back_and_are_the_standards_numbers(code, widths):
    bits, es = widths
    code &= (1 << bits) - 1
    fmt = WidePosit(bits, es)
    signed = code - (1 << bits) if code >> bits - 1 else code
    value = fmt.decode64(torch.tensor([signed]))
    assert torch.equal(value.nan_to_num(0.5), fmt.decode64(torch.tensor([code])).nan_to_num(0.5))  # the sign bit may be extended or not
    want = number(code, bits, es)
    assert bool(torch.isnan(value)) if want is None else Fraction(value.item()) == want
    assert fmt.encode(value).tolist() == [code if bits < 32 else signed]


def test_names_parse_and_print_and_bad_ones_say_why():
    assert text(quantizer("posit6_1 g64")) == "posit6_1 g64"
    assert quantizer("posit8") == quantizer("posit8_2")
    assert quantizer("posit32").format.bits == 32
    with pytest.raises(UnsupportedError, match="posit40_2: 3 to 32 bits"):
        posit(40)


def test_against_e4m3_on_normal_data():
    """Near one posits with es = 1 are 6 dB finer than e4m3 and those with es = 2 equal to it; 2**6 away es = 1 is coarser."""
    x = torch.randn(20000, generator=torch.Generator().manual_seed(0))

    def decibels(spec, factor):
        y = quantizer(spec).quantize(x * factor).dequantize() / factor
        return 10 * (y - x).square().mean().log10().item()

    assert decibels("posit8_1", 1) - decibels("float8_e4m3fn", 1) == pytest.approx(-5.95, abs=0.2)
    assert decibels("posit8_2", 1) - decibels("float8_e4m3fn", 1) == pytest.approx(0.0, abs=0.2)
    assert decibels("posit8_1", 64) > decibels("float8_e4m3fn", 64) + 5


@pytest.mark.parametrize("spec", ["posit17_1", "posit24 row", "posit31 g16", "posit32", "posit32 tensor scale=float32"])
def test_wide_posits_are_stored(spec):
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)) * torch.exp2(torch.arange(-4.0, 4.0)).unsqueeze(1)
    q = quantizer(spec).quantize(x)
    parts, bits = q.packed(), q.grid.format.bits
    assert len(parts["codes"]) == 64 * bits and q.nbytes == quantizer(spec).nbytes((8, 64))
    back = quantizer(spec).unpack(parts, (8, 64))
    assert torch.equal(back.codes, q.codes) and torch.equal(back.dequantize(), q.dequantize())
    assert (q.dequantize() - x).abs().max() < 2.0**-11 * x.abs().max()
    stream = int.from_bytes(parts["codes"].numpy().tobytes(), "little")
    words = [stream >> i * bits & (1 << bits) - 1 for i in range(512)]
    numbers = torch.tensor([float(number(w, bits, q.grid.format.es)) for w in words]).reshape(8, 64)
    units = q.grid.format.decode(q.codes)
    assert torch.equal(numbers, units) and len(set(words)) > 400
