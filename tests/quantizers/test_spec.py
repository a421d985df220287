"""Spec strings: every quantizer prints and parses back, and an error points at the place."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit import catalog
from lowbit.blocks import Blocks
from lowbit.errors import SpecError, UnknownName
from lowbit.formats.fixed_point import fixed_point
from lowbit.formats.integer import INTEGERS
from lowbit.formats.minifloat import float4_e2m1fn, float8_e4m3fn, float8_e8m0fnu, float16
from lowbit.formats.table import TableFormat
from lowbit.quantizers.microscaling import mxfp4
from lowbit.quantizers.nvfp4 import nvfp4
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.quantizers.spec import find_format, format_named, quantizer, text
from lowbit.rounding.stochastic import stochastic
from lowbit.scaling.absmax import Absmax, absmax
from lowbit.scaling.absmean import Absmean
from lowbit.scaling.minmax import minmax
from lowbit.scaling.mse import MSE
from lowbit.scaling.percentile import Percentile
from lowbit.scaling.power_of_two import rceil


@pytest.mark.parametrize("name", catalog.names("quantizer"))
def test_every_registered_quantizer_prints_and_parses_back(name):
    value = catalog.find("quantizer", name)
    assert quantizer(name) is value
    assert quantizer(text(value)) == value


formats = st.one_of(
    st.sampled_from([entry.thing for entry in catalog.entries("format")]),
    st.builds(lambda e, m, s: find_format(f"e{e}m{m}{s}"), st.integers(2, 5), st.integers(1, 3), st.sampled_from(["", "fn", "fnuz", "f"])),
    st.builds(lambda i, f: fixed_point(i, f), st.integers(0, 5), st.integers(1, 6)),
    st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=9, unique=True)
    .filter(lambda v: len({abs(x) if x == 0 else x for x in v}) > 1)
    .map(lambda v: find_format("table(" + ";".join(map(repr, v)) + ")")),
)
blocks = st.one_of(
    st.builds(Blocks, st.none(), st.booleans()),
    st.builds(Blocks, st.integers(1, 4096), st.booleans()),
    st.builds(Blocks, st.lists(st.integers(0, 256), min_size=1, max_size=3).map(tuple), st.booleans()),
)
share = st.floats(0.01, 0.99)
scalings = st.one_of(
    st.sampled_from([entry.thing for entry in catalog.entries("scaling") if not isinstance(entry.thing, type)]),
    st.builds(Absmax, st.none() | st.floats(0.5, 500)),
    st.builds(Absmean, st.floats(0.1, 3)),
    st.builds(Percentile, share),
    st.builds(MSE, share, st.integers(2, 100)),
    st.just(minmax),
)
roundings = st.sampled_from([entry.thing for entry in catalog.entries("rounding")])
overflows = st.sampled_from(["saturate", "special"])


def schemes(inner):
    stored = st.none() | inner
    scaled = st.builds(
        Scheme,
        formats,
        blocks,
        scalings,
        roundings,
        overflows,
        stored,
        offset_quantizer=stored,
        center=st.none() | blocks.map(lambda b: Blocks(b.size)),
    )
    return scaled | st.builds(lambda f, o, r: cast(f, o, r), formats, overflows, roundings)


@settings(max_examples=200)
@given(st.recursive(st.builds(cast, formats), schemes, max_leaves=3))
def test_any_scheme_prints_and_parses_back(value):
    words = text(value)
    assert "," not in words
    assert quantizer(words) == value
    assert text(quantizer(words)) == words


@pytest.mark.parametrize(
    "spec, value",
    [
        ("int4 g64", Scheme(INTEGERS["int4"], Blocks((64,)), absmax, scale_quantizer=cast(float16))),
        ("int4 g64 asym", Scheme(INTEGERS["uint4"], Blocks((64,)), minmax, scale_quantizer=cast(float16))),
        ("int4_narrow g64 asym", Scheme(INTEGERS["uint4"], Blocks((64,)), minmax, scale_quantizer=cast(float16))),
        ("int4 cast", cast(INTEGERS["int4"])),
        ("float8_e4m3fn", cast(float8_e4m3fn)),
        ("e4m3fn row", Scheme(float8_e4m3fn, Blocks((0,)), absmax, scale_quantizer=cast(float16))),
        ("e4m3fn channel scale=float32", Scheme(float8_e4m3fn, Blocks((0,)), absmax)),
        ("e2m1 flat64 ragged absmax:7.5", Scheme(float4_e2m1fn, Blocks(64, ragged=True), Absmax(7.5), scale_quantizer=cast(float16))),
        ("mxfp4 rceil", Scheme(float4_e2m1fn, Blocks((32,)), rceil, scale_quantizer=cast(float8_e8m0fnu))),
        ("nvfp4 round=stochastic", Scheme(nvfp4.format, nvfp4.blocks, absmax, stochastic, scale_quantizer=nvfp4.scale_quantizer)),
        ("nvfp4 32x32", Scheme(nvfp4.format, Blocks((32, 32)), absmax, scale_quantizer=nvfp4.scale_quantizer)),
        ("e2m1 g16 scale=(e4m3fn tensor scale=float32)", nvfp4),
        ("int8 tensor percentile:0.99", Scheme(INTEGERS["int8"], Blocks(None), Percentile(0.99), scale_quantizer=cast(float16))),
        ("int8 tensor percentile:share=0.99", Scheme(INTEGERS["int8"], Blocks(None), Percentile(0.99), scale_quantizer=cast(float16))),
        ("int8 row mse:steps=5", Scheme(INTEGERS["int8"], Blocks((0,)), MSE(steps=5), scale_quantizer=cast(float16))),
        ("  mxfp4   g64  ", Scheme(float4_e2m1fn, Blocks((64,)), mxfp4.scaling, scale_quantizer=mxfp4.scale_quantizer)),
        ("table(-1;0;1) g32", Scheme(TableFormat("table(-1;0;1)", (-1, 0, 1)), Blocks((32,)), absmax, scale_quantizer=cast(float16))),
        ("int8 row center=g256 offset=bf16", None),
    ],
)
def test_what_a_spec_means(spec, value):
    if value is None:
        value = quantizer(spec)
        assert value.center == Blocks((256,)) and value.offset_quantizer == cast(catalog.find("format", "bfloat16"))
    assert quantizer(spec) == value


def test_a_quantizer_is_returned_as_it_is():
    assert quantizer(nvfp4) is nvfp4


@pytest.mark.parametrize(
    "value, words",
    [
        (nvfp4, "nvfp4"),
        (quantizer("nvfp4 g32"), "nvfp4 g32"),
        (quantizer("int4 g64"), "int4 g64"),
        (quantizer("float8_e5m2"), "float8_e5m2"),
        (quantizer("int4 g64 asym"), "uint4 g64 minmax"),
        (quantizer("table(-1;0.1;1) row"), "table(-1;0.1;1) row"),
        (quantizer("mxfp4 g16 even scale=e8m0"), "mxfp4 g16 even"),
        (quantizer("mxfp4 rceil g64"), "mxfp4 g64 rceil"),
        (quantizer("mxfp4 g256 rceil"), "zeroquant_fp_m1"),
        (quantizer("e2m1 flat64"), "float4_e2m1fn flat64"),
        (quantizer("e2m1 g32"), "float4_e2m1fn g32"),
        (quantizer("e2m1 g128 sign_split round=up"), "afpq4 round=up"),
        (quantizer("nvfp4 g32 round=stochastic"), "nvfp4 g32 round=stochastic"),
        (quantizer("int8 g32"), "int8 g32"),
        (quantizer("e4m3fn row"), "float8_e4m3fn row"),
    ],
)
def test_it_prints_short(value, words):
    assert text(value) == words


def caret(spec):
    """The message and the column that the caret points at."""
    with pytest.raises(SpecError) as error:
        quantizer(spec)
    message, *rest = str(error.value).split("\n")
    if not rest:
        return message, None
    assert rest[0] == f"  {spec}" and rest[1].strip() == "^"
    return message, rest[1].index("^") - 2


@pytest.mark.parametrize(
    "spec, message, column",
    [
        ("", "an empty spec; try 'nvfp4' or 'int4 g64'", None),
        ("nvfp5", "no quantizer or format is called 'nvfp5'; did you mean 'nvfp4'?", 0),
        ("int4:g64", "no quantizer or format is called 'int4:g64'; words stand apart: 'int4 g64'", 0),
        ("qwertz", "no quantizer or format is called 'qwertz'; `lowbit list` prints every name", 0),
        ("int4, g64", "no comma in a spec; words are separated by spaces", 4),
        ("int4 g64 absmx", "'absmx' is no block, scale rule or key=value; did you mean 'absmax'?", 9),
        ("int4 g0", "a group of 0; 'row' is one scale a row", 5),
        ("int4 flat0", "a block of 0 elements; sizes are at least 1 (0 in a tuple is the whole axis)", 5),
        ("int4 scale=(e4m3fn tensor", "a parenthesis is not closed", 11),
        ("int4 g64)", "a parenthesis is closed that was not opened", 8),
        ("int4 scale=e4m3xx", "no quantizer or format is called 'e4m3xx'; did you mean 'e4m3'?", 11),
        ("int4 round=nearest_evn", "no rounding is called 'nearest_evn'; did you mean 'nearest_even'?", 11),
        ("int4 overflow=wrap", "overflow is saturate or special, not 'wrap'", 14),
        ("int4 center=big", "center='big' is no block; try tensor or g256", 12),
        ("nvfp4 asym", "asym is for integers (int4 asym), float4_e2m1fn is none", 6),
        ("int4 percentile:2", "percentile:2: the share is in (0, 1], 0.999 for instance", 5),
        ("int4 percentile:high", "percentile:share needs a number, not 'high'", 5),
        ("int4 mse:0.5:10:3:4", "mse takes 3 parameters (lowest, steps, highest)", 5),
        ("int4 mse:count=3", "mse has no parameter 'count'; it has lowest, steps, highest", 5),
        ("int4 minmax:3", "minmax takes 0 parameters (none)", 5),
        ("int4 floor:3", "floor takes no parameters", 5),
        ("e9m9 g32", "e9m9: 9 exponent and 9 mantissa bits; a minifloat has 1 or more and at most 16 bits in all", 0),
        ("table(1) g32", "format 'table(1)' has 1 codes; a table holds 2 to 65536", 0),
        ("table(1;2;x)", "no quantizer or format is called 'table(1;2;x)'; `lowbit list` prints every name", 0),
    ],
)
def test_an_error_points_at_the_place(spec, message, column):
    found, place = caret(spec)
    assert (found, place) == (message, column)


def test_a_quantizer_with_its_own_grid_takes_no_words(kept_catalogue):
    class Own:
        def nbytes(self, shape):
            return 0

    source = catalog.Source("t", "a", 2024, "here")
    catalog.register("quantizer", "own_grid", source)(Own())
    assert caret("own_grid g64") == ("own_grid has a grid of its own and takes no further words", 9)


def test_what_has_no_name_has_no_text():
    class Own:
        pass

    with pytest.raises(SpecError, match="Own is not registered, so it has no spec string; register it as a quantizer"):
        text(Own())
    secret = TableFormat("secret", (-1.0, 0.0, 1.0), odd=(True, False, True))
    with pytest.raises(SpecError, match="no spec string gives back"):
        text(Scheme(secret, Blocks((32,)), absmax))
    with_nan = TableFormat("secret", (-1.0, 0.0, float("nan")))
    with pytest.raises(SpecError, match="format 'secret' is not registered, so it has no spec string; register it"):
        text(cast(with_nan))


def test_formats_by_name():
    assert find_format("e4m3fn") is float8_e4m3fn and format_named("nothing") is None
    assert format_named("e3m5f").bits == 9 and format_named("uq2.6").bits == 8
    with pytest.raises(UnknownName, match="no format is called 'float8_e4m3f'; did you mean 'float8_e4m3fn'"):
        find_format("float8_e4m3f")


@pytest.mark.parametrize(("spec", "plainest"), [
    ("e2m1 flat64", "float4_e2m1fn flat64"),  # not afpq4 with its rule undone
    ("e2m1 g64", "float4_e2m1fn g64"),
    ("e2m1 g64 sign_split", "afpq4 g64"),
    ("fp8 tensor", "fp8 tensor"),
    ("mxfp4 rceil", "mxfp4 rceil"),
    ("int4 g64", "int4 g64"),
])  # fmt: skip
def test_the_plainest_words_are_printed(spec, plainest):
    assert text(quantizer(spec)) == plainest and quantizer(plainest) == quantizer(spec)
