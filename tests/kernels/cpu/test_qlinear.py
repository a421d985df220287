"""Products with packed codes against float64, within a bound that is derived; every target, any number of threads."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lowbit.errors import ShapeError
from lowbit.kernels.cpu import qlinear
from lowbit.kernels.cpu.linear_layout import PackedLinear, prepare, unprepare
from lowbit.kernels.linear_spec import LinearSpec
from lowbit.kernels.reference.qlinear_int8 import unit_of
from lowbit.testing.linears import random_linear

U = 2.0**-24  # unit roundoff of float32


def bound(x: Tensor, w: LinearSpec) -> Tensor:
    """How far a float32 result may be from the exact one.

    A product t x takes part in at most ``group`` additions of its group, one rounded multiplication by the scale (itself rounded once where
    it has two levels), ``groups`` additions of groups, as many of offsets, the rounding of the product and of the bias: each multiplies
    by 1 + d, |d| <= U. With n such factors the error is at most n U / (1 - n U) times the sum of magnitudes (Higham 2002, lemma 3.1).

    Where the numbers of the table are whole, few rows of x may go as digits: a number of x is then off by 2**-30 of the largest of its
    group, and the sums of the digits are added with three roundings of at most 2**-6 of that: 2**-28 in all.
    """
    n = w.group + 2 * w.groups + 8
    gamma = n * U / (1 - n * U)
    W = w.table.double()[w.codes.long()] * w.spread(w.scales.double())
    magnitudes = x.double().abs() @ W.abs().T
    if w.offset is not None:
        magnitudes += x.double().abs() @ w.spread(w.offset.double()).abs().T
    if unit_of(w.table) is not None:
        magnitudes += largest(x, w) @ W.abs().T * 2.0**-28 / gamma
    return gamma * magnitudes + 1e-37


def largest(x: Tensor, w: LinearSpec) -> Tensor:
    """The largest magnitude of its group in place of every number."""
    padded = torch.nn.functional.pad(x.double().abs().reshape(-1, x.shape[-1]), (0, w.group * w.groups - x.shape[-1]))
    most = padded.unflatten(1, (w.groups, w.group)).amax(2)
    return most.repeat_interleave(w.group, 1)[:, : x.shape[-1]].view(x.shape)


def exact(x: Tensor, w: LinearSpec, bias: Tensor | None = None) -> Tensor:
    """In float64."""
    W = w.table.double()[w.codes.long()] * w.spread(w.scales.double())
    if w.offset is not None:
        W = W + w.spread(w.offset.double())
    y = x.double() @ W.T
    return y if bias is None else y + bias.double()


def check(x: Tensor, w: LinearSpec, packed: PackedLinear, bias: Tensor | None = None) -> Tensor:
    out = torch.full((*x.shape[:-1], packed.rows), torch.nan)
    y = qlinear.run(x, packed, bias, out)
    assert y is out
    limit = bound(x, w) + (0 if bias is None else (bias.double().abs() + exact(x, w).abs()) * 2 * U)
    error = (y.double() - exact(x, w, bias)).abs()
    assert bool((error <= limit).all()), (float((error / limit).max()), tuple(x.shape), w.codes.shape, w.bits, w.group)
    return y


SHAPES = [(1, 1, 1), (1, 17, 33), (3, 5, 100), (17, 64, 96), (2, 130, 160), (33, 48, 64), (24, 16, 40), (5, 31, 256), (70, 35, 72)]
SHAPES += [(32, 270, 64), (39, 66, 700), (50, 300, 36)]  # more than one panel of rows or block of columns


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width_on_every_target(bits: int, cpu: Any) -> None:
    for m, rows, columns in SHAPES:
        group = min(columns, 32)
        w = random_linear(rows, columns, bits, group, seed=m, offset=m % 2 == 0)
        packed = prepare(w)
        x, bias = torch.randn(m, columns), torch.randn(rows)
        for target in cpu.targets():
            assert cpu.use_target(target)
            check(x, w, packed)
            check(x, w, packed, bias)


@pytest.mark.parametrize("m", [*range(1, 18), 23, 24, 25, 33, 49])
def test_every_number_of_rows(m: int, cpu: Any) -> None:
    w = random_linear(70, 96, 4, 32, offset=True)
    packed = prepare(w)
    x = torch.randn(m, 96)
    for target in cpu.targets():
        assert cpu.use_target(target)
        check(x, w, packed)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [1, 3, 4, 8, 16, 24, 64, 100, 200, 600])
def test_every_group(bits: int, group: int, cpu: Any) -> None:
    columns = max(200, group)
    w = random_linear(40, columns, bits, group, seed=group, offset=True)
    packed = prepare(w)
    for target in cpu.targets():
        assert cpu.use_target(target)
        check(torch.randn(2, columns), w, packed)
        check(torch.randn(40, columns), w, packed)


@pytest.mark.parametrize("scales", ["float32", "bfloat16", "float16", "e8m0", "e4m3"])
def test_every_form_of_scales(scales: str, cpu: Any) -> None:
    w = random_linear(40, 512, 4, 16, scales=scales)
    w.scale[3, 5] = 0.0
    packed = prepare(w)
    for target in cpu.targets():
        assert cpu.use_target(target)
        check(torch.randn(3, 512), w, packed)


@pytest.mark.parametrize(
    "kind, bits", [("signed", 8), ("unsigned", 8), ("fp8", 8), ("table", 8), ("signed", 7), ("signed", 4), ("ternary", 2)]
)
def test_every_way_of_decoding(kind: str, bits: int, cpu: Any) -> None:
    w = random_linear(50, 300, bits, 60, kind=kind)
    packed = prepare(w)
    for target in cpu.targets():
        assert cpu.use_target(target)
        # the rows of the identity show single numbers: one product, exact but for the scale
        for rows in (slice(0, 300), slice(0, 10)):  # many and few
            y = qlinear.run(torch.eye(300)[rows], packed)
            assert torch.equal(y.T, w.dequantize()[:, rows]), target
        for few in (1, 2, 3, 4):  # that may go another way
            some = [qlinear.run(part, packed) for part in torch.eye(300).split(few)]
            assert torch.equal(torch.cat(some).T, w.dequantize()), (target, few)
        check(torch.randn(5, 300), w, packed)


def test_bits_do_not_depend_on_threads(cpu: Any, threads: Callable[[int], Any]) -> None:
    w = random_linear(700, 1024, 4, 32, offset=True)
    packed = prepare(w)
    for m in (1, 5, 30, 130):
        x = torch.randn(m, 1024)
        for target in cpu.targets():
            assert cpu.use_target(target)
            results = []
            for count in (1, 2, 3):
                with threads(count):
                    results.append(qlinear.run(x, packed))
            assert all(torch.equal(results[0], r) for r in results)


def halved(x: Tensor, w: LinearSpec) -> tuple[Tensor, Tensor]:
    """With x and W rounded to bfloat16 once: the exact result and how far float32 sums of exact products may be from it.

    A scaled number is rounded to float32 and may be moved before; as ties at a rounding to bfloat16 are broken by the last bit of float32,
    the numbers are taken as the kernel has them: ``dequantize`` rounds each operation once too.
    """
    W, x = w.dequantize().bfloat16().double(), x.bfloat16().double()
    n = 2 * (256 + 32 * w.groups) + w.codes.shape[1] // 64 + 8
    # numbers below 2**-126 may count as zero
    return x @ W.T, n * U / (1 - n * U) * (x.abs() @ W.abs().T) + 1e-37


@pytest.mark.parametrize(
    "bits, group, columns", [(4, 32, 96), (4, 24, 72), (3, 100, 300), (8, 700, 700), (1, 5, 33), (6, 64, 640), (2, 1, 17)]
)
def test_bfloat16_with_many_rows(bits: int, group: int, columns: int, cpu: Any) -> None:
    for offset in (False, True):
        w = random_linear(150, columns, bits, group, offset=offset)
        packed, bias = prepare(w), torch.randn(150)
        for target in cpu.targets():
            assert cpu.use_target(target)
            halves = "bfloat16" in cpu.many_rows(packed.handle, 20, 2)
            assert halves == (target in ("avx512_bf16", "amx"))
            for m in (16, 20, 47, 70):
                x = torch.randn(m, columns).bfloat16()
                out = torch.full((m, 150), torch.nan, dtype=torch.bfloat16)
                y = qlinear.run(x, packed, bias, out).double()
                want, limit = halved(x, w) if halves else (exact(x, w), bound(x, w))
                want = want + bias.double()
                assert bool(((y - want).abs() <= limit + 2.0**-8 * (want.abs() + limit)).all()), (target, m, offset)


def test_float32_is_rounded_to_bfloat16_only_where_the_caller_allows_it(cpu: Any) -> None:
    w = random_linear(150, 320, 4, 32)
    packed, x = prepare(w), torch.randn(40, 320)
    for target in cpu.targets():
        assert cpu.use_target(target)
        check(x, w, packed)  # far tighter than bfloat16 is
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            y = qlinear.run(x, packed, None, torch.full((40, 150), torch.nan)).double()
        finally:
            torch.set_float32_matmul_precision(before)
        want, limit = halved(x, w) if target in ("avx512_bf16", "amx") else (exact(x, w), bound(x, w))
        assert bool(((y - want).abs() <= limit).all()), target
        assert bool(((y - exact(x, w)).abs() <= 2.0**-7 * (x.abs().double() @ w.dequantize().abs().double().T)).all())


def test_torch_multiplies_as_before_after_a_kernel(cpu: Any, threads: Callable[[int], Any]) -> None:
    """Tile registers are shared with oneDNN: a configuration that is left behind would be its own or raise an exception."""
    packed = prepare(random_linear(300, 256, 4, 32))
    a, b = torch.randn(64, 256).bfloat16(), torch.randn(128, 256).bfloat16()
    want = torch.nn.functional.linear(a, b)
    for target in cpu.targets():
        assert cpu.use_target(target)
        for count in (1, 2):
            with threads(count):
                first = qlinear.run(a, packed)
                assert torch.equal(torch.nn.functional.linear(a, b), want)
                assert torch.equal(qlinear.run(a, packed), first)


@pytest.mark.parametrize("bits, group, columns", [(4, 32, 600), (8, 600, 600), (3, 40, 200), (2, 24, 300), (5, 7, 50)])
def test_a_row_has_the_same_bits_however_many_there_are(bits: int, group: int, columns: int, cpu: Any) -> None:
    w = random_linear(150, columns, bits, group, offset=group != 40)
    packed, x = prepare(w), torch.randn(70, columns)
    for target in cpu.targets():
        assert cpu.use_target(target)
        assert cpu.many_rows(packed.handle, 70, 0) and not cpu.many_rows(packed.handle, 5, 0)
        assert torch.equal(qlinear.run(x, packed)[3:8], qlinear.run(x[3:8], packed))


def test_more_rows_than_are_prepared_together(cpu: Any) -> None:
    w = random_linear(33, 40, 4, 20, offset=True)
    packed, x = prepare(w), torch.randn(1100, 40)
    for target in cpu.targets():
        assert cpu.use_target(target)
        y = check(x, w, packed)
        assert torch.equal(y[700:750], qlinear.run(x[700:750], packed))  # a row does not depend on the others


def test_few_rows_have_no_panels(cpu: Any) -> None:
    packed = prepare(random_linear(20, 64, 4, 32, kind="signed"))
    for target in cpu.targets():
        assert cpu.use_target(target)
        assert [cpu.many_rows(packed.handle, 1, kind) for kind in range(3)] == [""] * 3
        names = [cpu.many_rows(packed.handle, 64, kind) for kind in range(3)]
        assert names[0] == "panels of float32" and "int8" in names[1] and ("AMX" in names[1]) == (target == "amx")


def test_half_precision_goes_through_float32(cpu: Any) -> None:
    w = random_linear(40, 96, 4, 32)
    packed = prepare(w)
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.randn(2, 3, 96).to(dtype)
        y = qlinear.run(x, packed)
        assert y.dtype == dtype and y.shape == (2, 3, 40)
        assert torch.equal(y, qlinear.run(x.float(), packed).to(dtype))


def test_long_sums_of_ones_are_exact(cpu: Any) -> None:
    """All +1 with x = 1: 4096, which sums in 16 bits have been seen to turn into -4160."""
    w = LinearSpec(torch.full((16, 4096), 2, dtype=torch.uint8), 2, torch.tensor([-1.0, 0.0, 1.0]), torch.ones(16, 1), 4096)
    for target in cpu.targets():
        assert cpu.use_target(target)
        assert torch.equal(qlinear.run(torch.ones(3, 4096), prepare(w)), torch.full((3, 16), 4096.0))


def test_zero_scales_and_special_inputs(cpu: Any) -> None:
    w = random_linear(20, 64, 4, 32)
    w.scale.zero_()
    assert torch.equal(qlinear.run(torch.randn(2, 64), prepare(w)), torch.zeros(2, 20))
    w = random_linear(20, 40, 4, 20, kind="signed")  # columns are filled up to 48
    x = torch.randn(3, 40)
    x[1, 7] = torch.nan
    y = qlinear.run(x, prepare(w))
    assert bool(y[1].isnan().all()) and bool(y[[0, 2]].isfinite().all())


WHOLE = {
    1: torch.tensor([-1.0, 1.0]),
    2: torch.tensor([-1.0, 0.0, 1.0]),
    3: torch.arange(8.0) - 4,
    4: torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]),
    5: torch.arange(32.0) - 7,
    6: torch.arange(64.0) * 0.25 - 8,
    7: torch.arange(128.0) - 100,
    8: torch.arange(256.0) - 128,
}


def whole(rows: int, columns: int, bits: int, group: int, seed: int = 0, offset: bool = False) -> LinearSpec:
    """A random weight of whole numbers times a power of two."""
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, len(WHOLE[bits]), (rows, columns), generator=g).to(torch.uint8)
    scale = torch.exp2(torch.randint(-2, 3, (rows, -(-columns // group)), generator=g).float())
    return LinearSpec(codes, bits, WHOLE[bits], scale, group, torch.randn(scale.shape, generator=g) if offset else None)


@pytest.mark.parametrize("bits", WHOLE)
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_few_rows_of_whole_numbers(bits: int, m: int, cpu: Any) -> None:
    """Integers in x give exact results; numbers of any range stay within the bound."""
    for seed, (rows, columns, group) in enumerate([(1, 1, 1), (17, 33, 5), (70, 96, 32), (130, 200, 200), (65, 512, 64)]):
        w = whole(rows, columns, bits, group, seed)
        packed = prepare(w)
        integers = torch.randint(-40, 41, (m, columns)).float()
        wide = torch.randn(m, columns) * torch.exp2(torch.randint(-30, 30, (m, columns)).float())
        near = torch.where(torch.rand(m, columns) < 0.5, -1.0, 1.0) * torch.nextafter(torch.tensor(2.0), torch.tensor(0.0))
        for target in cpu.targets():
            assert cpu.use_target(target)
            assert torch.equal(check(integers, w, packed).double(), exact(integers, w)), (target, rows)
            for x in (torch.randn(m, columns), wide, near, wide * 1e-25, near * 2.0**90, near * 2.0**100):
                check(x, w, packed)
            check(wide, whole(rows, columns, bits, group, seed, offset=True), prepare(whole(rows, columns, bits, group, seed, offset=True)))


@pytest.mark.parametrize("m", [1, 3])
def test_digits_keep_what_float32_would_lose(m: int, cpu: Any) -> None:
    """1 and 2**-29 in a group, the large ones of which cancel: sums in float32 give 0, exact sums do not."""
    if cpu.target() != "avx512_vnni":
        pytest.skip("only the VNNI kernel sums exactly")
    w = LinearSpec(torch.tensor([[2, 2, 0, 2] + [1] * 28] * 20, dtype=torch.uint8), 2, WHOLE[2], torch.ones(20, 1), 32)
    x = torch.zeros(m, 32)
    x[:, 0], x[:, 1], x[:, 2], x[:, 3] = 1.0, 2.0**-29, 1.0, 2.0**-29
    assert qlinear.run(x, prepare(w)).unique().tolist() == [2.0**-28]


@pytest.mark.parametrize("special", [torch.nan, torch.inf, -torch.inf, 1e-40, 1e-30])
def test_rows_that_cannot_be_digits(special: float, cpu: Any) -> None:
    """NaN and Inf come through as products with floats have them, tiny groups lose nothing."""
    w = whole(40, 96, 4, 32)
    packed = prepare(w)
    for m in (1, 2, 4):
        x = torch.randn(m, 96)
        x[0, 32:64] = 0 if abs(special) < 1 else 1.0
        x[0, 40] = special
        for target in cpu.targets():
            assert cpu.use_target(target)
            y = qlinear.run(x, packed, None, torch.full((m, 40), 7.0))
            if abs(special) < 1:
                check(x, w, packed)
                single = torch.zeros(m, 96)
                single[:, 40] = special
                got = qlinear.run(single, packed).double()
                want = exact(single, w)
                assert bool(((got - want).abs() <= want.abs() * 2 * U + 2.0**-149 * 64).all()), target
                continue
            want = x[0] @ w.dequantize().T
            assert torch.equal(y[0].isnan(), want.isnan()) and torch.equal(y[0].isinf(), want.isinf())
            assert torch.equal(y[0][y[0].isinf()], want[want.isinf()])
            assert bool(y[1:].isfinite().all())


@pytest.mark.parametrize("unit", [2.0**-100, 2.0**-30, 2.0**30, 2.0**80])
def test_whole_tables_of_any_size(unit: float, cpu: Any) -> None:
    w = whole(20, 64, 4, 32)
    w = dataclasses.replace(w, table=w.table * unit)
    for target in cpu.targets():
        assert cpu.use_target(target)
        for factor in (1.0, 2.0**-20, 2.0**20):
            check(torch.randn(1, 64) * factor, w, prepare(w))


def test_copies_have_their_own_addresses(cpu: Any) -> None:
    packed = prepare(random_linear(20, 64, 4, 32))
    x = torch.randn(2, 64)
    want = qlinear.run(x, packed)
    other = copy.deepcopy(packed)
    packed.words.zero_()
    assert torch.equal(qlinear.run(x, other), want)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"group": 65}, "a group of 65 columns in a matrix of 64"),
        ({"group": 0}, "a group of 0 columns"),
        ({"bits": 9}, "9 bits"),
        ({"table": torch.zeros(17)}, "a table of shape"),
        ({"table": torch.zeros(3)}, "code 15"),
        ({"scale": torch.zeros(20, 3)}, "scale of a linear"),
        ({"codes": torch.zeros(20, 64)}, "uint8 matrix"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    w = random_linear(20, 64, 4, 32)
    w.codes[0, 0] = 15
    fields = {name: getattr(w, name) for name in ("codes", "bits", "table", "scale", "group")} | change
    with pytest.raises(ShapeError, match=message):
        LinearSpec(**fields)


def test_calls_that_do_not_fit_are_refused(cpu: Any) -> None:
    w = random_linear(20, 64, 4, 32)
    packed = prepare(w)
    with pytest.raises(ShapeError, match="64 columns"):
        qlinear.run(torch.zeros(2, 63), packed)
    with pytest.raises(ShapeError, match="bias is float32 of 20"):
        qlinear.run(torch.zeros(2, 64), packed, torch.zeros(21))
    with pytest.raises(ShapeError, match="out should be"):
        qlinear.run(torch.zeros(2, 64), packed, None, torch.zeros(2, 21))
    assert "prepare" in str(qlinear.refuses(torch.zeros(2, 64), w))
    assert "gradient" in str(qlinear.refuses(torch.zeros(2, 64, requires_grad=True), packed))
    assert "bias" in str(qlinear.refuses(torch.zeros(2, 64), packed, torch.zeros(20, requires_grad=True)))
    assert "float64" in str(qlinear.refuses(torch.zeros(2, 64).double(), packed))


def fuzz(count: int, cpu: Any, threads: Callable[[int], Any]) -> None:
    draw = random.Random(0)
    for seed in range(count):
        bits = draw.randint(1, 8)
        kind = draw.choice(["table", "signed", "unsigned"] + ["fp8"] * (bits == 8) + ["ternary"] * (bits == 2))
        columns, rows, m = draw.randint(1, 300), draw.randint(1, 70), draw.choice([1, 1, 2, 3, 4, 7, 16, 17, 24, 40, 75])
        group = draw.choice([columns, min(columns, draw.choice([1, 2, 4, 8, 16, 32, 64, 128])), draw.randint(1, columns)])
        w = random_linear(
            rows, columns, bits, group, seed, kind, draw.choice(["float32", "bfloat16", "float16", "e8m0", "e4m3"]), draw.random() < 0.4
        )
        packed = prepare(w)
        assert torch.equal(unprepare(packed).codes, w.codes)
        assert cpu.use_target(draw.choice([*cpu.targets(), cpu.targets()[-1]]))
        with threads(draw.randint(1, 3)):
            check(torch.randn(m, columns), w, packed, torch.randn(rows) if draw.random() < 0.3 else None)


def test_some_random_cases(cpu: Any, threads: Callable[[int], Any]) -> None:
    fuzz(300, cpu, threads)


@pytest.mark.slow
def test_ten_thousand_random_cases(cpu: Any, threads: Callable[[int], Any]) -> None:
    fuzz(10_000, cpu, threads)
