"""Table formats against an exact encoder in rational arithmetic: random tables, every rounding, both overflows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lowbit import catalog
from lowbit.errors import UnsupportedError
from lowbit.formats import table
from lowbit.formats.format import Format
from lowbit.formats.minifloat import float4_e2m1fn, float8_e4m3fn
from lowbit.formats.table import TableFormat, smallest_above
from lowbit.philox import Key, noise
from lowbit.rounding.ieee754 import down, nearest_even, up
from lowbit.rounding.rounding import Rounding
from lowbit.rounding.stochastic import stochastic
from lowbit.testing.exact import DETERMINISTIC, ExactFormat
from lowbit.testing.formats import check_format, probes

float32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
near32 = st.floats(-4, 4, width=32)


@st.composite
def tables(draw):
    """Random tables: duplicates, NaN of both signs, Inf, signed zeros, one-sided ranges, own parities, reserved codes."""
    numbers = draw(st.sampled_from([near32, finite32, st.floats(0, 100, width=32), st.floats(-8, -1, width=32)]))
    values = draw(st.lists(numbers, min_size=2, max_size=20, unique=draw(st.booleans())))
    extra = st.sampled_from([math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, values[0]])
    values = draw(st.permutations(values + draw(st.lists(extra, max_size=6))))
    odd = draw(st.none() | st.lists(st.booleans(), min_size=len(values), max_size=len(values)).map(tuple))
    kept = {v for v in values if math.isfinite(v)}
    reserved = draw(st.frozensets(st.integers(0, len(values) - 1), max_size=2))
    if len(kept) < 2 or len({v for i, v in enumerate(values) if math.isfinite(v) and i not in reserved}) < 2:
        values, reserved = [*values, 1.0, 3.0], frozenset()
        odd = None if odd is None else (*odd, True, False)
    return TableFormat("random", tuple(values), odd=odd, reserved=reserved)


def exact_codes(fmt, y, rounding, overflow):
    line = ExactFormat(fmt.values, fmt.odd, fmt.reserved)
    return [line.encode(v, rounding, overflow) for v in y.tolist()]


@settings(max_examples=150, deadline=None)
@given(
    fmt=tables(),
    y=st.lists(float32, min_size=1, max_size=20),
    rounding=st.sampled_from(DETERMINISTIC),
    overflow=st.sampled_from(["saturate", "special"]),
)
def test_any_table_encodes_exactly(fmt, y, rounding, overflow):
    y = torch.cat((torch.tensor(y), probes(fmt, random=8)))
    rule = catalog.find("rounding", rounding)
    want = exact_codes(fmt, y, rounding, overflow)
    assert fmt.encode(y, rule, overflow=overflow).tolist() == want
    assert fmt.encode(y.double(), rule, overflow=overflow).tolist() == want


@settings(max_examples=100, deadline=None)
@given(fmt=tables(), y=st.lists(float32, min_size=1, max_size=20), overflow=st.sampled_from(["saturate", "special"]))
def test_stochastic_rounding_takes_a_neighbour(fmt, y, overflow):
    """With all-zero noise every number between two goes up (the share is positive), with all-ones noise down."""
    y = torch.cat((torch.tensor(y), probes(fmt, random=8)))
    y = y[torch.isfinite(y)].clamp(fmt.min, fmt.max)
    line = ExactFormat(fmt.values, fmt.odd, fmt.reserved)
    for word, mode in ((0, "up"), (2**32 - 1, "down")):
        got = fmt.decode(fmt.encode(y, stochastic, torch.full(y.shape, word), overflow=overflow))
        bound = fmt.decode(torch.tensor([line.encode(v, mode) for v in y.tolist()]))
        other = fmt.decode(torch.tensor([line.encode(v, "down" if mode == "up" else "up") for v in y.tolist()]))
        # a share below 2**-24 or above 1 - 2**-24 cannot be told from 0 or 1 by 24 bits of noise
        share = (y.double() - torch.minimum(bound, other).double()) / (bound.double() - other.double()).abs()
        edge = (share < 2.0**-23) | (share > 1 - 2.0**-23)
        assert torch.equal(got[~edge], bound[~edge])
        assert bool(((got == bound) | (got == other)).all())


@settings(max_examples=60, deadline=None)
@given(fmt=tables())
@example(fmt=TableFormat("a next number of 55 bits", (0.0, -1.0, 3.581735577898189e16, 1.0, 2.0, 3.0, math.nan)))
def test_any_table_passes_the_contract(fmt):
    check_format(fmt, per_check=60)


@pytest.mark.parametrize("name", ["nf4_element", "ternary_element", "binary_element", "dynamic8", "int3", "uint2", "int4_narrow", "q1.6"])
def test_registered_tables_encode_exactly_at_every_hard_point(name):
    fmt = catalog.find("format", name)
    y = probes(fmt)
    for rounding in DETERMINISTIC:
        for overflow in ("saturate", "special"):
            assert fmt.encode(y, catalog.find("rounding", rounding), overflow=overflow).tolist() == exact_codes(fmt, y, rounding, overflow)


def test_worked_example():
    """-1, 0, 0.3, 5: midpoints -0.5, 0.15 and 2.65; codes 0 to 3, so a tie goes to the even code."""
    fmt = TableFormat("four", (-1.0, 0.0, 0.25, 5.0))
    y = torch.tensor([-9.0, -0.5, -0.25, 0.125, 0.126, 2.625, 2.626, 9.0])
    assert fmt.encode(y).tolist() == [0, 0, 1, 2, 2, 2, 3, 3]
    assert fmt.encode(y, up).tolist() == [0, 1, 1, 2, 2, 3, 3, 3]
    assert fmt.encode(y, down).tolist() == [0, 0, 0, 1, 1, 2, 2, 3]


def test_values_are_those_of_float32():
    fmt = TableFormat("tenths", (0.1, 0.2, 0.3))
    assert fmt.values == tuple(float(np.float32(v)) for v in (0.1, 0.2, 0.3))
    assert fmt.decode(fmt.encode(torch.tensor([0.1, 0.2, 0.3]), up)).tolist() == list(fmt.values)


def test_cut_points_are_the_smallest_inputs_that_go_up():
    cuts = float4_e2m1fn.cutpoints()
    numbers = sorted(set(float4_e2m1fn.values))
    assert len(cuts) == len(numbers) - 1
    for cut, low, high in zip(cuts, numbers, numbers[1:], strict=False):
        below = torch.nextafter(cut, torch.tensor(-math.inf))
        assert float4_e2m1fn.decode(float4_e2m1fn.encode(torch.stack((below, cut)))).tolist() == [low, high]


@given(st.fractions(min_value=-(10**39), max_value=10**39), st.booleans(), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=200, deadline=None)
def test_smallest_above(point, inclusive, dtype):
    (found,) = smallest_above([(point, inclusive)], dtype)
    value = torch.tensor(found, dtype=dtype)
    assert value.item() == found
    below = torch.nextafter(value, torch.tensor(-math.inf, dtype=dtype)).item()
    if math.isfinite(found):
        assert point < found or (inclusive and point == found)
    assert math.isinf(below) or below < point or (not inclusive and below == point)


@pytest.mark.parametrize("step", [0, 1, -1])
def test_smallest_above_a_number_of_float32(step):
    """Exactly on a float32 number, and 2**-80 beside it, which float64 cannot see."""
    from fractions import Fraction

    point = Fraction(3, 2) + step * Fraction(1, 2**80)
    above = float(np.nextafter(np.float32(1.5), np.float32(2)))
    assert smallest_above([(point, True)], torch.float32) == [above if step > 0 else 1.5]
    assert smallest_above([(point, False)], torch.float32) == [1.5 if step < 0 else above]


def test_numbers_beyond_float32_are_infinite():
    from fractions import Fraction

    assert smallest_above([(Fraction(2) ** 128, True), (-(Fraction(2) ** 128), True)], torch.float32) == [
        math.inf,
        -torch.finfo(torch.float32).max,
    ]


def test_directed_roundings_toward_zero_do_not_overflow():
    """IEEE 754, 7.4: a finite number never becomes Inf by rounding toward zero; Inf itself stays Inf."""
    fmt = catalog.find("format", "float8_e5m2")
    y = torch.tensor([1e9, -1e9, math.inf, -math.inf])
    rtz = catalog.find("rounding", "toward_zero")
    assert fmt.decode(fmt.encode(y, rtz, overflow="special")).tolist() == [57344.0, -57344.0, math.inf, -math.inf]
    assert fmt.decode(fmt.encode(y, up, overflow="special")).tolist() == [math.inf, -57344.0, math.inf, -math.inf]
    assert fmt.decode(fmt.encode(y, down, overflow="special")).tolist() == [57344.0, -math.inf, math.inf, -math.inf]


def test_stochastic_overflow_of_bfloat16_is_unbiased():
    """The number after the largest, 2**128, is not a float32; three quarters of the way three in four overflow."""
    fmt = catalog.find("format", "bfloat16")
    y = torch.full((4000,), float(np.float32(fmt.max)) * 1.0).double() + 0.75 * 2.0**120
    codes = fmt.encode(y.float(), stochastic, noise(Key(0), (4000,)), overflow="special")
    share = fmt.decode(codes).isinf().double().mean()
    assert abs(share - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 4000)


def test_a_long_tensor_is_encoded_in_pieces(monkeypatch):
    x = torch.linspace(-500, 500, 1001)
    words = noise(Key(3), (1001,))
    whole = float8_e4m3fn.encode(x), float8_e4m3fn.encode(x, stochastic, words)
    monkeypatch.setattr(table, "CHUNK", 64)
    assert torch.equal(float8_e4m3fn.encode(x), whole[0])
    assert torch.equal(float8_e4m3fn.encode(x, stochastic, words), whole[1])


def test_a_rounding_of_a_user_sees_the_gap():
    """Without cut points a rule is asked about each number: here toward the neighbour of larger magnitude unless close to the other."""
    lazy = Rounding("lazy", lambda gap, noise: (gap.y - gap.low) > 0.75 * (gap.high - gap.low))
    y = torch.tensor([1.0, 1.3, 1.4, 3.7, 3.8, 7.0, -7.0])
    assert float4_e2m1fn.decode(float4_e2m1fn.encode(y, lazy)).tolist() == [1.0, 1.0, 1.5, 3.0, 4.0, 6.0, -6.0]


class TestAlternatives:
    fmt = TableFormat("two", (-1.0, 0.0, 1.0, 2.0), alternatives=((-2.0, 0.0, 1.0, 4.0), (0.0, 1.0, 10.0, 100.0)))

    def test_each_element_uses_its_table(self):
        y = torch.tensor([[-3.0, 1.6, 90.0], [-3.0, 1.6, 90.0], [-3.0, 1.6, 90.0]])
        which = torch.tensor([[0], [1], [2]])
        codes = self.fmt.encode(y, table=which)
        assert codes.tolist() == [[0, 3, 3], [0, 2, 3], [0, 1, 3]]
        assert self.fmt.decode(codes, table=which).tolist() == [[-1.0, 2.0, 2.0], [-2.0, 1.0, 4.0], [0.0, 1.0, 100.0]]

    def test_without_a_table_the_first_is_used(self):
        assert self.fmt.decode(self.fmt.encode(torch.tensor([90.0]))).tolist() == [2.0]

    def test_the_facts_are_those_of_all_tables(self):
        assert (self.fmt.max, self.fmt.min, self.fmt.min_positive) == (100.0, -2.0, 1.0)
        assert self.fmt.tops() == (2.0, 4.0, 100.0)

    def test_it_passes_the_contract(self):
        check_format(self.fmt)


def test_equal_tables_are_equal_formats():
    one, two = TableFormat("a", (0.0, 1.0, math.nan)), TableFormat("a", (0.0, 1.0, math.nan))
    assert one == two and hash(one) == hash(two) and one.identity == two.identity
    assert one != TableFormat("b", (0.0, 1.0, math.nan))
    assert one != TableFormat("a", (-0.0, 1.0, math.nan))
    assert one != TableFormat("a", (0.0, 1.0, math.nan), odd=(True, True, True))
    assert one != TableFormat("a", (0.0, 1.0, math.nan), reserved=frozenset({2}))
    assert TableFormat("a", (0.0, 1.0), alternatives=((0.0, 2.0),)) != TableFormat("a", (0.0, 1.0), alternatives=((0.0, 3.0),))


def test_it_is_a_format():
    assert isinstance(float4_e2m1fn, Format) and isinstance(TableFormat("a", (0.0, 1.0)), Format)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"values": (1.0,)}, "format 'bad' has 1 codes; a table holds 2 to 65536"),
        ({"values": (math.nan, 1.0, math.inf)}, "format 'bad' needs at least two finite numbers"),
        ({"values": (0.0, 1.0), "odd": (True,)}, "format 'bad': 1 parities for 2 codes"),
        ({"values": (0.0, 1.0), "alternatives": ((1.0,),)}, "format 'bad': every alternative table needs 2 numbers"),
        ({"values": (0.0, 1e39)}, "format 'bad' holds 1e+39, which float32 cannot; numbers are at most 3.4e38 and not below 1.4e-45"),
        ({"values": (0.0, 1e-46)}, "format 'bad' holds 1e-46, which float32 cannot"),
    ],
)
def test_a_bad_table_is_refused(arguments, message):
    with pytest.raises(UnsupportedError) as error:
        TableFormat("bad", **arguments)
    assert str(error.value).startswith(message)


def test_cut_points_need_a_rule_of_the_number_alone():
    with pytest.raises(UnsupportedError, match="rounding stochastic depends on more than the number, so it has no cut points"):
        float4_e2m1fn.cutpoints(stochastic)


def test_bits_and_levels():
    assert [TableFormat("n", tuple(range(n))).bits for n in (2, 3, 4, 5, 16, 17, 256, 257)] == [1, 2, 2, 3, 4, 5, 8, 9]
    assert TableFormat("n", tuple(range(11)), reserved=frozenset({3})).levels == 10
    assert TableFormat("n", tuple(range(257))).encode(torch.tensor([256.0])).dtype == torch.int32
    assert nearest_even is catalog.find("rounding", "rne")
