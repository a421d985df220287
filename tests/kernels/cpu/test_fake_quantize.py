"""The extension against the torch reference, bit for bit: every quantizer, target, number of threads, dtype and shape."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import lowbit
from lowbit import catalog
from lowbit.blocks import Blocks
from lowbit.errors import ShapeError
from lowbit.kernels.grid_spec import GridSpec
from lowbit.kernels.op import NoKernel, backend
from lowbit.philox import Key, noise
from lowbit.quantizers.best import Best
from lowbit.quantizers.grid import Grid, QTensor
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme
from lowbit.quantizers.spec import quantizer
from lowbit.testing.formats import same_bits

KEY = Key(5, "noise")

#: what users write beside the registered names
SPECS = (
    "float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "float4_e2m1fn", "int8 cast", "float8_e8m0fnu", "posit8_1 cast",
    "hifloat8 cast", "e3m4", "e2m3f", "e4m3b11fnuz", "ue4m3fn", "ue5m3 cast", "e3m0f cast", "e5m10 cast", "e8m3 cast", "e2m5b3.5 cast",
    "q2.5 cast", "q7.8 cast", "uq0.4 cast", "int3_narrow cast", "table(-1;0.1;1)", "table(1000;1000.25;1001;1002.5)",
    "binary_element cast", "dynamic8 cast", "float8_e4m3fn overflow=special", "float8_e5m2 overflow=special",
    "float16 overflow=special", "bfloat16 overflow=special", "float8_e8m0fnu overflow=special", "ue4m3fn overflow=special",
    "float8_e4m3fnuz overflow=special", "mxfp4 even", "mxfp4 ceil", "mxfp4 rceil", "mxfp8 rceil", "mxint8 even", "mxfp6 ceil",
    "nvfp4 g32", "nvfp4 row", "int4 g128", "int4 g64 asym", "int8 tensor asym", "uint4 g32 minmax", "int4 g32 absmax:7.5",
    "int4 tensor", "int4 g24", "int4 flat48 ragged", "int4 g100 ragged", "int3 g7 ragged", "int4 32x1", "int4 2x16", "fp8 16x64 ragged",
    "fp8 tensor", "fp8 g32 scale=bfloat16", "int2 5x3 ragged", "float4_e2m1fn g32 scale=float8_e4m3fn",
    "int4 g32 scale=(float8_e4m3fn g6 scale=float16)", "posit8_1 g64", "hifloat8 g64 scale=float32", "int4 g64 round=toward_zero",
    "float8_e4m3fn round=up", "float8_e4m3fn round=nearest_away", "float8_e5m2 round=to_odd", "bfloat16 round=down",
    "float16 round=to_odd", "bfloat16 round=toward_zero overflow=special", "float16 round=nearest_away", "e5m10 cast round=down",
    "posit16_2 cast", "e7m8 round=up", "q7.8 cast round=nearest_away", "nvfp4 floor", "nvfp4 g48 ragged", "nvfp4 g5 ragged",
    "int4 g32 sign_split", "e2m1 g100 ragged sign_split", "int8 16x4 ragged sign_split", "nf4_element tensor sign_split scale=float32",
    "int3 g64 absmean", "ternary_element g7 ragged absmean:1.5", "binary_element tensor absmean scale=float32",
    "int4 flat3000 ragged absmean", "int4 g64 mse", "e2m1 row mse:0.5:7:1.1", "int3 g24 mse", "int3 flat3000 ragged mse",
    "int4 g1500 ragged mse scale=float32", "e2m1 g16 four_over_six", "bitmod3 g7 ragged", "bitmod4 g32 mse",
    "e2m1 g100 ragged four_over_six scale=(float8_e4m3fn tensor)", "int4 g32 asym scale=(float8_e4m3fn tensor)",
    "mxfp4 floor scale=(e5m2 tensor)", "nvfp4 mse", "nvfp4 g16 four_over_six:6:5", "int4 g32 scale=(float8_e4m3fn g6 center=tensor)",
    "int4 g32 scale=hifloat8", "e4m3_ftz g32", "e8m7_ftz", "uint4 g32 range", "uint8 16x32 range offset=float16", "int8 row clip:2.5",
    "fp8 tensor delayed:3:margin=1",
)  # fmt: skip
STOCHASTIC = (
    "float8_e4m3fn round=stochastic", "float8_e5m2 round=stochastic", "bfloat16 round=stochastic", "float16 round=stochastic",
    "float4_e2m1fn round=stochastic", "mxfp4 round=stochastic", "nvfp4 round=stochastic", "int4 g32 round=stochastic",
    "posit8_1 cast round=stochastic", "float8_e4m3fn overflow=special round=stochastic", "ue4m3fn round=stochastic",
    "table(-1;0.1;1) round=stochastic", "float8_e4m3fnuz round=stochastic", "e8m3 round=stochastic",
)  # fmt: skip
REGISTERED = tuple(catalog.names("quantizer"))

#: registered ones that only the reference knows; each says why
SLOW = {f"ggml_{name}" for name in ("q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k")} | {"ifairy"}
SHAPE = (26, 384)


def reference(x: Tensor, q: Quantizer, out: Tensor | None = None) -> Tensor:
    with backend("reference"):
        return lowbit.fake_quantize(x, q, out, key=KEY)


def tame(*shape: int) -> Tensor:
    """Finite numbers, the blocks of which differ in range."""
    generator = torch.Generator().manual_seed(11)
    return torch.randn(shape, generator=generator) * torch.exp2(torch.randint(-4, 5, (*shape[:-1], 1), generator=generator))


def assert_same(found: Tensor, expected: Tensor, x: Tensor, what: str) -> None:
    if found.dtype != torch.float32:
        found, expected = found.float(), expected.float()
    differ = ~same_bits(found, expected)
    if bool(differ.any()):
        at = tuple(differ.nonzero()[0].tolist())
        raise AssertionError(f"{what}: {int(differ.sum())} differ, first {x[at]!r} -> {found[at]!r}, expected {expected[at]!r}")


@pytest.mark.parametrize("spec", REGISTERED + SPECS + STOCHASTIC)
def test_every_target_and_number_of_threads_has_the_bits_of_the_reference(spec: str, cpu: Any, hard: Any, threads: Any) -> None:
    q = quantizer(spec)
    x = hard(*SHAPE)
    try:
        expected = reference(x, q)
    except ShapeError:
        x = hard(32, 768)
        expected = reference(x, q)
    options = q.options if isinstance(q, Best) else (q,)
    fused = all(isinstance(getattr(o, "lowered", None), GridSpec) for o in options)
    assert fused or spec in REGISTERED
    assert fused or catalog.lookup("quantizer", spec).name in SLOW
    plain = tame(*x.shape)  # where scales are under one number a single NaN makes everything NaN
    for numbers, wanted in ((x, expected), (plain, reference(plain, q))):
        for target in cpu.targets() if fused else cpu.targets()[-1:]:
            assert cpu.use_target(target)
            for count in (1, 2, 3):
                with threads(count):
                    out = torch.full_like(x, torch.nan)
                    assert lowbit.fake_quantize(numbers, q, out, key=KEY) is out
                    assert_same(out, wanted, numbers, f"{target}, {count} threads")


@pytest.mark.parametrize("spec", REGISTERED + SPECS + STOCHASTIC)
def test_codes_scales_and_what_they_decode_to_are_those_of_the_reference(spec: str, cpu: Any, hard: Any) -> None:
    q = quantizer(spec)
    for x in (hard(32, 768), tame(32, 768)):
        assert_codes_are_those_of_the_reference(q, x, cpu)


def assert_codes_are_those_of_the_reference(q: Quantizer, x: Tensor, cpu: Any) -> None:
    words = noise(KEY, tuple(x.shape))
    with backend("reference"):
        expected = q.quantize(x, noise=words)
        numbers = expected.dequantize()
        parts = expected.packed()
    for target in cpu.targets():
        assert cpu.use_target(target)
        found = q.quantize(x, noise=words)
        assert_same(found.dequantize(), numbers, x, target)
        packed = found.packed()
        assert packed.keys() == parts.keys()
        for name, part in parts.items():
            assert torch.equal(packed[name].reshape(-1).view(torch.uint8), part.reshape(-1).view(torch.uint8)), f"{target}: {name}"


@pytest.mark.parametrize(
    "spec", ["float8_e4m3fn", "bfloat16", "mxfp4", "nvfp4", "int4 g64 asym", "posit8_1 cast", "float8_e5m2 round=stochastic"]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_in_and_out(spec: str, dtype: torch.dtype, out_dtype: torch.dtype, cpu: Any, hard: Any) -> None:
    q = quantizer(spec)
    x = (tame if "nvfp4" in spec else hard)(30, 192).to(dtype)
    expected = reference(x, q, torch.empty(x.shape, dtype=out_dtype))
    for target in cpu.targets():
        assert cpu.use_target(target)
        with backend("cpu"):
            assert_same(lowbit.fake_quantize(x, q, torch.full(x.shape, torch.nan, dtype=out_dtype), key=KEY), expected, x, target)
            if dtype == out_dtype:
                assert_same(lowbit.fake_quantize(x, q, key=KEY), expected, x, target)


@pytest.mark.parametrize(
    "spec", ["float8_e4m3fn", "float16", "mxfp4 g8", "nvfp4", "int4", "nf4_single", "fp8_tile", "int8 16x4 ragged", "ternary", "hq_dit"]
)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (1, 16), (16,), (5, 48), (2, 3, 16), (2, 1, 5, 32), (17, 80), (3, 131072 + 16)])
def test_shapes(spec: str, shape: tuple[int, ...], cpu: Any, hard: Any) -> None:
    q = quantizer(spec)
    x = hard(*shape) if shape else torch.tensor(0.3)
    try:
        expected = reference(x, q)
    except ShapeError as error:
        message = str(error)
    else:
        assert_same(lowbit.fake_quantize(x, q), expected, x, spec)
        return
    with pytest.raises(ShapeError, match=re.escape(message)):
        lowbit.fake_quantize(x, q)


def test_long_rows_and_tensors_are_measured_by_all_threads(cpu: Any, hard: Any, threads: Any) -> None:
    x = hard(3, 700_001)
    x[0, 5], x[2, 699_999] = 1e30, 2e30
    for spec in ("int8", "int4 tensor asym", "fp8 tensor", "int4 g200000 ragged", "mxfp4 g65536 ragged"):
        expected = reference(x, quantizer(spec))
        for count in (1, 3):
            with threads(count):
                assert_same(lowbit.fake_quantize(x, spec), expected, x, spec)


def test_results_that_bypass_the_caches_are_the_same(cpu: Any) -> None:
    x = torch.randn(1030, 4099)
    for spec in ("float8_e4m3fn", "int8"):
        out = torch.full((x.numel() + 3,), torch.nan)
        whole = out[3:].view(x.shape)  # not at a multiple of 64 bytes
        assert_same(lowbit.fake_quantize(x, spec, whole), reference(x, quantizer(spec)), x, spec)
        assert bool(out[:3].isnan().all())


@pytest.mark.parametrize("spec", ["float8_e4m3fn", "mxfp4", "nvfp4", "int4 g64 asym"])
def test_memory_that_is_not_in_order(spec: str, cpu: Any, hard: Any) -> None:
    x = hard(64, 128)
    q = quantizer(spec)
    for view in (x.T, x[:, 64:], x[::2], x.expand(3, 64, 128)):
        expected = reference(view, q)
        assert_same(lowbit.fake_quantize(view, q), expected, view, spec)
        room = torch.full((*view.shape[:-1], 2 * view.shape[-1]), torch.nan)
        out = lowbit.fake_quantize(view, q, room[..., ::2])
        assert_same(out, expected, view, spec)
        assert bool(room[..., 1::2].isnan().all())


@pytest.mark.parametrize("spec", ["float8_e4m3fn", "mxfp4", "nvfp4", "int8", "fp8 16x64"])
def test_in_place(spec: str, cpu: Any, hard: Any) -> None:
    x = hard(32, 128)
    expected = reference(x, quantizer(spec))
    kept = x.clone()
    assert lowbit.fake_quantize(x, spec, x) is x
    assert_same(x, expected, kept, spec)


def test_an_output_that_overlaps_is_left_to_the_reference(cpu: Any) -> None:
    memory = torch.randn(4 * 32 + 1)
    x, out = memory[:-1].view(4, 32), memory[1:].view(4, 32)
    with backend("cpu"), pytest.raises(NoKernel, match="overlaps"):
        lowbit.fake_quantize(x, "mxfp4", out)
    expected = lowbit.fake_quantize(x.clone(), "mxfp4")
    assert torch.equal(lowbit.fake_quantize(x, "mxfp4", out), expected)


def test_noise_goes_by_element_index(cpu: Any) -> None:
    """Rows apart get the noise that they get together when their words are handed over."""
    x = torch.randn(6, 37)
    q = quantizer("float8_e4m3fn round=stochastic")
    words = noise(KEY, (6, 37))
    whole = lowbit.fake_quantize(x, q, key=KEY)
    rows = torch.cat([q.quantize(x[i : i + 1], noise=words[i : i + 1]).dequantize() for i in range(6)])
    assert torch.equal(whole, rows)
    assert not torch.equal(whole, lowbit.fake_quantize(x, q, key=Key(6, "noise")))


def test_casts_agree_with_those_of_torch(cpu: Any, hard: Any) -> None:
    """An oracle that shares nothing with the tables."""
    x = hard(60, 999).nan_to_num(1.0, 2.0, -2.0)
    for target in cpu.targets():
        assert cpu.use_target(target)
        for spec, dtype, limit in (
            ("float8_e4m3fn", torch.float8_e4m3fn, 448.0), ("float8_e5m2", torch.float8_e5m2, 57344.0),
            ("bfloat16", torch.bfloat16, 3e38), ("float16", torch.float16, 65504.0),
        ):  # fmt: skip
            held = x.clamp(-limit, limit)
            with backend("cpu"):
                assert_same(lowbit.fake_quantize(held, spec), held.to(dtype).float(), held, f"{target} {spec}")


@pytest.mark.parametrize("spec", ["nvfp4_four_over_six", "bitmod4", "int4 g32 mse", "hq_dit"])
def test_an_importance_weighs_the_errors_of_candidates(spec: str, cpu: Any) -> None:
    """The extension compares plain errors, so it may not choose here; nor under scales that are frozen."""
    x = torch.randn(8, 256, generator=torch.Generator().manual_seed(3))
    importance = torch.logspace(0, 6, 256)
    q = quantizer(spec)
    with backend("reference"):
        expected, plain = q.quantize(x, importance), q.quantize(x)
    found = q.quantize(x, importance)
    assert torch.equal(found.dequantize(), expected.dequantize()) and not torch.equal(found.dequantize(), plain.dequantize())
    if isinstance(plain.grid.scale, QTensor) and isinstance(q, Scheme):
        frozen = plain.grid.scale.grid
        with backend("reference"):
            expected_grid = q.grid(x * 0.5, outer=frozen)
        assert torch.equal(q.grid(x * 0.5, outer=frozen).scale.codes, expected_grid.scale.codes)


def test_a_quantizer_without_a_name_takes_the_fast_way(cpu: Any, hard: Any) -> None:
    """A format that nobody registered: 5 bits, its numbers the squares of a line."""
    mine = lowbit.TableFormat("squares", tuple(v * abs(v) for v in range(-16, 16)))
    q = replace(quantizer("int4 g32"), format=mine, blocks=Blocks((32,)))
    x = hard(30, 256)
    with backend("cpu"):
        assert_same(lowbit.fake_quantize(x, q), reference(x, q), x, "squares")


def test_one_operation_under_compile() -> None:
    torch._dynamo.reset()
    x = torch.randn(4, 64)
    q = replace(quantizer("int4 g32"), format=lowbit.TableFormat("thirds", (-1.0, 0.0, 0.3, 1.0)))

    def f(x: Tensor, seed: int) -> Tensor:
        out = torch.empty_like(x)
        lowbit.fake_quantize(x, q, out=out)
        return lowbit.fake_quantize(x + 1, "nvfp4") + lowbit.fake_quantize(x, "float8_e4m3fn round=stochastic", key=seed) + out

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for seed in (3, 4):
        assert torch.equal(compiled(x, seed), f(x, seed))


def test_the_operations_keep_their_word() -> None:
    x, tail = torch.randn(4, 32), (0, "", "", 0, 0)
    torch.library.opcheck(torch.ops.lowbit.fake_quantize.default, (x, "mxfp4", *tail))
    torch.library.opcheck(torch.ops.lowbit.fake_quantize_out.default, (x, "mxfp4", *tail, torch.empty_like(x)))


@pytest.mark.parametrize("spec", ["int8", "float8_e4m3fn"])
def test_quotients_beside_the_cut_points(spec: str, cpu: Any) -> None:
    """A quotient that is off by its last bit would take the other neighbour for numbers within a few units of cut point * scale."""
    generator = torch.Generator().manual_seed(7)
    count = 4096
    mantissas = torch.randint(0, 1 << 23, (count,), generator=generator)
    mantissas[:64], mantissas[64:128] = torch.arange(64), (1 << 23) - 1 - torch.arange(64)
    exponents = torch.randint(127 - 70, 127 + 70, (count,), generator=generator)
    scale = (exponents << 23 | mantissas).int().view(torch.float32)
    fmt = lowbit.find("format", spec)
    cuts = fmt.cutpoints()
    at = cuts[torch.randint(0, len(cuts), (count, 16), generator=generator)]
    near = (at.double() * scale.unsqueeze(1).double()).float()
    x = torch.cat([(near.view(torch.int32) + k).view(torch.float32) for k in range(-3, 5)], 1)
    expected = fmt.encode((x / scale.unsqueeze(1)).nan_to_num(0.0))
    grid = Grid(fmt, Blocks((0,)), tuple(x.shape), scale=scale.unsqueeze(1))
    for target in cpu.targets():
        assert cpu.use_target(target)
        with backend("cpu"):
            assert torch.equal(grid.choose(x).codes, expected), target
