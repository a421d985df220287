"""Triton's kernels against the torch reference, bit for bit: every quantizer, roundings with noise, dtypes, shapes that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import lowbit
from lowbit import catalog
from lowbit.errors import ShapeError
from lowbit.kernels.grid_spec import GridSpec
from lowbit.kernels.op import NoKernel, backend
from lowbit.philox import Key, noise
from lowbit.quantizers.best import Best
from lowbit.quantizers.spec import quantizer
from lowbit.testing.formats import same_bits

KEY = Key(5, "noise")

#: what users write beside the registered names
SPECS = (
    "float8_e4m3fn", "float16", "bfloat16", "int8 cast", "posit8_1 cast", "e8m3 cast", "table(-1;0.1;1)", "binary_element cast",
    "float8_e5m2 overflow=special", "bfloat16 overflow=special", "mxfp4 even", "mxfp8 rceil", "nvfp4 row", "int4 g64 asym",
    "int8 tensor asym", "int4 g24", "int4 flat48 ragged", "int3 g7 ragged", "int4 32x1", "int4 2x16", "fp8 16x64 ragged", "fp8 tensor",
    "int4 g32 scale=(float8_e4m3fn g6 scale=float16)", "hifloat8 g64 scale=float32", "float8_e4m3fn round=up", "bfloat16 round=down",
    "nvfp4 g48 ragged", "int4 g32 sign_split", "nf4_element tensor sign_split scale=float32", "int3 g64 absmean",
    "ternary_element g7 ragged absmean:1.5", "int4 flat3000 ragged absmean", "int4 g64 mse", "int3 g24 mse", "bitmod3 g7 ragged",
    "e2m1 g16 four_over_six", "uint4 g32 range", "e4m3_ftz g32",
)  # fmt: skip
STOCHASTIC = (
    "float8_e4m3fn round=stochastic", "bfloat16 round=stochastic", "mxfp4 round=stochastic", "nvfp4 round=stochastic",
    "int4 g32 round=stochastic", "posit8_1 cast round=stochastic", "table(-1;0.1;1) round=stochastic", "int4 g7 ragged round=stochastic",
)  # fmt: skip
REGISTERED = tuple(catalog.names("quantizer"))


def numbers(rows: int, columns: int, *, hard: bool = True) -> Tensor:
    """Rows of different range; with NaN, Inf, a zero with a sign, a subnormal number, blocks of zeros and of subnormal numbers."""
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(rows, columns, generator=generator)
    x *= torch.exp2(torch.randint(-4, 5, (rows, 1), generator=generator))
    if hard:
        x[0, 0], x[1, 3], x[2, 5], x[4, 1] = -0.0, torch.nan, torch.inf, 1e-41
        x[3, :64] = 0
        x[5, :96] *= 1e-41
    return x


def assert_same(found: Tensor, expected: Tensor, x: Tensor) -> None:
    differ = ~same_bits(found.float(), expected.float())
    if bool(differ.any()):
        at = tuple(differ.nonzero()[0].tolist())
        raise AssertionError(f"{int(differ.sum())} differ, first {x[at]!r} -> {found[at]!r}, expected {expected[at]!r}")


def compared(spec: str, x: Tensor) -> None:
    """What Triton makes of x, written over NaN, against the reference; where it refuses, it says why."""
    q, out = quantizer(spec), torch.full_like(x, torch.nan)
    if isinstance(q, Best) or not isinstance(getattr(q, "lowered", None), GridSpec):
        with backend("triton"), pytest.raises(NoKernel):
            lowbit.fake_quantize(x, q, out, key=KEY)
        return
    with backend("reference"):
        expected = lowbit.fake_quantize(x, q, key=KEY)
    with backend("triton"):
        assert lowbit.fake_quantize(x, q, out, key=KEY) is out
    assert_same(out, expected, x)


@pytest.mark.parametrize("spec", REGISTERED + SPECS + STOCHASTIC)
def test_the_bits_are_those_of_the_reference(spec: str, interpreter: None) -> None:
    for hard in (False, True):
        try:
            compared(spec, numbers(6, 384, hard=hard))
        except ShapeError:
            compared(spec, numbers(32, 768, hard=hard)[:32])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", ["mxfp4", "nvfp4", "int4 g32", "hifloat4", "float8_e4m3fn round=stochastic", "int8 row"])
def test_halves_are_rounded_once(spec: str, dtype: torch.dtype, interpreter: None) -> None:
    compared(spec, numbers(6, 384).to(dtype))


@pytest.mark.parametrize(
    "spec", ["int8 row", "int4 tensor asym", "fp8 tensor", "int4 tensor sign_split", "float8_e4m3fn", "int8 tensor absmean"]
)
def test_blocks_that_many_programs_share(spec: str, interpreter: None) -> None:
    """Rows are longer than what a program holds, and end in the middle of a piece."""
    for hard in (False, True):
        compared(spec, numbers(6, 17003, hard=hard))


def test_an_output_that_is_not_contiguous(interpreter: None) -> None:
    x = numbers(6, 64)
    out = torch.full((64, 6), torch.nan).T
    with backend("triton"):
        lowbit.fake_quantize(x, "mxfp4", out)
    with backend("reference"):
        assert_same(out, lowbit.fake_quantize(x, "mxfp4"), x)


@pytest.mark.parametrize(
    "spec", ["mxfp4", "nvfp4", "int4 g64 asym", "int3 g64 sign_split", "bitmod3", "nvfp4_four_over_six", "posit8_1 g64"]
)
def test_codes_and_scales_decode_to_those_of_the_reference(spec: str, interpreter: None) -> None:
    x, q = numbers(32, 384), quantizer(spec)
    with backend("reference"):
        expected = q.quantize(x)
        decoded = expected.dequantize()
    found = q.quantize(x)
    assert torch.equal(found.codes, expected.codes)
    assert_same(found.dequantize(), decoded, x)


def test_noise_that_is_given_is_that_of_its_key(interpreter: None) -> None:
    x, q = numbers(6, 384, hard=False), quantizer("mxfp4 round=stochastic")
    with backend("reference"):
        expected = q.quantize(x, noise=noise(KEY, x.shape)).dequantize()
    assert_same(q.quantize(x, noise=noise(KEY, x.shape)).dequantize(), expected, x)
    assert_same(lowbit.fake_quantize(x, q, key=KEY), expected, x)


def test_what_is_refused_says_why(interpreter: None) -> None:
    for x, spec, reason in (
        (torch.zeros(4, 32, dtype=torch.float64), "mxfp4", "float64"),
        (torch.zeros(4, 32, requires_grad=True), "mxfp4", "gradient"),
        (torch.zeros(4, 4, 4), "int4 2x2x2", "rows and columns"),
        (torch.zeros(4, 2048), "int4 g2048 mse", "compares those of 1024"),
    ):
        with backend("triton"), pytest.raises(NoKernel, match=reason):
            lowbit.fake_quantize(x, spec)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", REGISTERED + SPECS + STOCHASTIC)
def test_a_device_has_the_bits_of_the_reference(spec: str, dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    try:
        compared(spec, numbers(26, 384).to("cuda", dtype))
    except ShapeError:
        compared(spec, numbers(32, 768).to("cuda", dtype))
