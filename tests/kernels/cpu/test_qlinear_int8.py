"""Products of integers: the bits of the reference, on every target."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lowbit.kernels.cpu import qlinear_int8
from lowbit.kernels.cpu.linear_layout import prepare
from lowbit.kernels.linear_spec import LinearSpec
from lowbit.kernels.reference import qlinear_int8 as reference

TABLES = {
    "int8": (8, torch.arange(256).to(torch.uint8).view(torch.int8).float()),
    "uint8": (8, torch.arange(256.0)),
    "int4": (4, torch.arange(16.0) - 8),
    "uint4": (4, torch.arange(16.0)),
    "e2m1": (4, torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])),
    "int2": (2, torch.arange(4.0) - 2),
    "ternary": (2, torch.tensor([-1.0, 0.0, 1.0])),
    "int3 in 4 bits": (3, torch.arange(8.0) - 4),
}


def weight(name: str, rows: int, columns: int, group: int, seed: int, offset: bool = False) -> LinearSpec:
    bits, table = TABLES[name]
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, len(table), (rows, columns), generator=g).to(torch.uint8)
    groups = -(-columns // group)
    scale = torch.rand(rows, groups, generator=g) * 0.1
    return LinearSpec(codes, bits, table, scale, group, torch.randn(rows, groups, generator=g) if offset else None)


@pytest.mark.parametrize("name", [name for name in TABLES if name != "int3 in 4 bits"])
@pytest.mark.parametrize("offset", [False, True])
def test_bits_of_the_reference(name: str, offset: bool, cpu: Any) -> None:
    draw = random.Random(1)
    for m, rows, columns, group in [
        (1, 1, 1, 1),
        (1, 17, 33, 5),
        (3, 64, 256, 32),
        (24, 40, 128, 128),
        (33, 30, 96, 16),
        (5, 70, 200, 200),
        (16, 270, 128, 32),
        (37, 66, 1200, 1200),
        (50, 130, 640, 64),
        (21, 40, 1344, 96),
        (18, 20, 1056, 24),
        (29, 17, 1500, 750),
        (8, 49, 320, 32),
        (11, 65, 300, 20),
        (20, 130, 576, 64),
        (530, 18, 70, 33),
    ]:
        w = weight(name, rows, columns, group, m, offset)
        packed = prepare(w)
        x = torch.randn(m, columns) * draw.choice([1e-6, 1.0, 1e6])
        x[m // 2] = 0
        bias = torch.randn(rows) if draw.random() < 0.5 else None
        want = reference.run(x, w, bias)
        for target in cpu.targets():
            assert cpu.use_target(target)
            out = torch.full((m, rows), torch.nan)
            assert torch.equal(qlinear_int8.run(x, packed, bias, out), want), (name, target, m)


@pytest.mark.parametrize("name", ["int8", "uint8", "int4", "uint4", "e2m1", "ternary"])
def test_scales_of_few_digits_and_the_largest_sums(name: str, cpu: Any) -> None:
    """Sums that are still float32 numbers when 1.5 * 2**23 is added, and those just beyond; one scale of many digits among the others."""
    most = float((TABLES[name][1] / reference.unit_of(TABLES[name][1])).abs().max())
    edge = int(2**22 / (128 * most))  # columns whose sums stay below 2**22
    for m, group in [(5, 32), (8, edge - 1), (13, edge), (16, edge + 1), (17, 32), (24, 2 * edge), (40, edge + 2)]:
        if group > 2500:
            continue
        for many in (False, True):
            w = weight(name, 70, 2 * group + 3, group, m, offset=m % 2 == 0)
            w.scale.copy_((torch.randn(w.scale.shape) * torch.exp2(torch.randint(-90, 90, w.scale.shape).float())).bfloat16())
            w.scale[3], w.scale[5, 0] = 0.0, -0.0
            if many:
                w.scale[69, 1] = math.pi
            w.codes[:7] = int(w.table.abs().argmax())
            x = torch.randn(m, 2 * group + 3)
            x[0], x[1] = 1.0, -1.0
            want, packed = reference.run(x, w), prepare(w)
            for target in cpu.targets():
                assert cpu.use_target(target)
                out = torch.full((m, 70), torch.nan)
                assert torch.equal(qlinear_int8.run(x, packed, None, out), want), (name, target, m, group, many)


def test_bits_do_not_depend_on_threads_or_other_rows(cpu: Any, threads: Callable[[int], Any]) -> None:
    w = weight("int4", 600, 1024, 64, 0, offset=True)
    packed, x = prepare(w), torch.randn(70, 1024)
    want = reference.run(x, w)
    for target in cpu.targets():
        assert cpu.use_target(target)
        for count in (1, 2, 3):
            with threads(count):
                for rows in (slice(0, 70), slice(3, 20), slice(5, 6)):
                    assert torch.equal(qlinear_int8.run(x[rows], packed, None, torch.full((len(x[rows]), 600), torch.nan)), want[rows])


def test_half_precision_in_and_out(cpu: Any) -> None:
    w = weight("int8", 40, 256, 256, 0)
    packed = prepare(w)
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.randn(33, 256).to(dtype)
        for target in cpu.targets():
            assert cpu.use_target(target)
            assert torch.equal(qlinear_int8.run(x, packed), reference.run(x, w))


def test_sums_are_those_of_python_integers(cpu: Any) -> None:
    """The reference itself against integers without a limit."""
    w = weight("int8", 3, 70, 35, 0)
    x = torch.randn(2, 70)
    q, s = reference.quantize_rows(x)
    assert q.abs().amax(1).tolist() == [127, 127]
    ints = TABLES["int8"][1].long()[w.codes.long()].tolist()
    for i in range(2):
        for r in range(3):
            total = torch.zeros(())
            for g in range(2):
                part = range(35 * g, 35 * g + 35)
                total = total + torch.tensor(float(sum(int(q[i, k]) * ints[r][k] for k in part))) * w.scale[r, g]
            assert reference.run(x, w)[i, r] == total * s[i, 0]


@pytest.mark.parametrize("name, code", [("ternary", 2), ("int8", 128), ("uint8", 255), ("e2m1", 7), ("int4", 0)])
def test_the_largest_sums_do_not_overflow(name: str, code: int, cpu: Any) -> None:
    """All codes at the end of the table and x all ones: sums of 16 bits, saturated or not, would show."""
    bits, table = TABLES[name]
    for columns in (4096, reference.MOST_COLUMNS):
        w = LinearSpec(torch.full((16, columns), code, dtype=torch.uint8), bits, table, torch.ones(16, 1), columns)
        packed = prepare(w)
        for target in cpu.targets():
            assert cpu.use_target(target)
            for sign, m in ((1.0, 2), (-1.0, 2), (1.0, 20), (-1.0, 20)):
                got = qlinear_int8.run(torch.full((m, columns), sign * 127), packed)  # a scale of 1
                assert got.unique().tolist() == [sign * 127 * columns * float(table[code])]


def test_ties_and_special_rows(cpu: Any) -> None:
    w = LinearSpec(torch.eye(4, 8).to(torch.uint8), 2, torch.tensor([0.0, 1.0]), torch.ones(4, 1), 8)
    x = torch.tensor([[127.0, 0.5, 1.5, -2.5, 0, 0, 0, 0], [torch.nan, 1, 1, 1, 1, 1, 1, 1], [torch.inf, 1, 1, 1, 1, 1, 1, 1]])
    for target in cpu.targets():
        assert cpu.use_target(target)
        for m in (3, 30):
            y = qlinear_int8.run(x.repeat(m // 3, 1), prepare(w))
            assert y[-3].tolist() == [127, 0, 2, -2]
            assert bool(y[-2:].isnan().all())
    assert bool(reference.run(x, w)[1:].isnan().all())


def test_refusals(cpu: Any) -> None:
    codes = torch.zeros(2, 64, dtype=torch.uint8)
    x = torch.zeros(1, 64)
    nf = LinearSpec(codes, 4, torch.randn(16), torch.ones(2, 1), 64)
    assert "integers times" in str(qlinear_int8.refuses(x, prepare(nf)))
    five = LinearSpec(codes, 5, torch.arange(32.0), torch.ones(2, 1), 64)
    assert "5 bits" in str(qlinear_int8.refuses(x, prepare(five)))
    long = LinearSpec(torch.zeros(1, 70000, dtype=torch.uint8), 4, torch.arange(16.0), torch.ones(1, 1), 70000)
    assert "overflow" in str(qlinear_int8.refuses(torch.zeros(1, 70000), prepare(long)))
    assert qlinear_int8.refuses(x, prepare(LinearSpec(codes, 4, TABLES["e2m1"][1], torch.ones(2, 1), 64))) is None
    assert [reference.unit_of(t) for t in (TABLES["e2m1"][1], torch.tensor([0.1, 0.3]), torch.tensor([256.0, 1.0]))] == [0.5, None, None]


def written(x: Tensor, w: LinearSpec, bias: Tensor | None = None) -> Tensor:
    """The kernel's result, into memory that held NaN."""
    out = torch.full((*x.shape[:-1], len(w.codes)), torch.nan)
    assert qlinear_int8.run(x, prepare(w), bias, out) is out
    return out


@pytest.mark.parametrize("name", ["int8", "int4", "ternary"])
def test_bits_do_not_depend_on_threads(name: str, cpu: Any, threads: Callable[[int], Any]) -> None:
    """Enough rows for each thread to have tiles of its own, and a last tile that is not full."""
    w = weight(name, 701, 1000, 40, 0, offset=True)
    for m in (1, 5, 30):
        x = torch.randn(m, 1000)
        want = reference.run(x, w)
        for target in cpu.targets():
            assert cpu.use_target(target)
            for count in (1, 2, 3):
                with threads(count):
                    assert torch.equal(written(x, w), want), (target, m, count)


def test_half_precision_goes_through_float32(cpu: Any) -> None:
    w = weight("int4", 40, 96, 32, 0)
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.randn(2, 3, 96).to(dtype)
        y = qlinear_int8.run(x, prepare(w))
        assert y.dtype == dtype and torch.equal(y, reference.run(x.float(), w).to(dtype))


def special(x: Tensor, draw: random.Random) -> Tensor:
    """Some rows that are hard to round: zeros, subnormals, the largest numbers, ties, one number alone, or one that is not finite."""
    for row in x:
        match draw.randrange(12):
            case 0:
                row.zero_()
            case 1:
                row *= 1e-42
            case 2:
                row *= 1e37
            case 3:
                row.copy_((torch.randint(-254, 255, row.shape) / 2).clamp(-127, 127))
            case 4:
                row[draw.randrange(len(row))] = 1e6
            case 5:
                row[draw.randrange(len(row))] = draw.choice([math.nan, math.inf, -math.inf])
    return x


def fuzz(count: int, cpu: Any, threads: Callable[[int], Any]) -> None:
    """Bit for bit the reference, NaN where it has NaN."""
    draw = random.Random(0)
    for seed in range(count):
        torch.manual_seed(seed)
        name = draw.choice([n for n in TABLES if n != "int3 in 4 bits"])
        columns, rows, m = draw.randint(1, 300), draw.randint(1, 70), draw.choice([1, 1, 2, 3, 4, 7, 8, 12, 16, 17, 24, 25, 40])
        group = draw.choice([columns, min(columns, draw.choice([1, 2, 4, 8, 16, 32, 64, 128])), draw.randint(1, columns)])
        w = weight(name, rows, columns, group, seed, draw.random() < 0.4)
        if draw.random() < 0.3:
            w.scale.copy_(torch.exp2(torch.randint(-20, 20, w.scale.shape).float()))
        elif draw.random() < 0.5:
            w.scale.copy_(torch.randn(w.scale.shape).bfloat16())
        if draw.random() < 0.1:
            w.scale[draw.randrange(rows)] = 0.0
        x, bias = special(torch.randn(m, columns), draw), torch.randn(rows) if draw.random() < 0.3 else None
        target = draw.choice(cpu.targets())
        assert cpu.use_target(target)
        with threads(draw.choice([1, 3])):
            got, want = written(x, w, bias), reference.run(x, w, bias)
        assert torch.equal(got.isnan(), want.isnan()), (seed, target, name, m, rows, columns, group)
        assert torch.equal(got.nan_to_num(0, 1, -1), want.nan_to_num(0, 1, -1)), (seed, target, name, m, rows, columns, group)


def test_some_random_cases(cpu: Any, threads: Callable[[int], Any]) -> None:
    fuzz(300, cpu, threads)


@pytest.mark.slow
def test_ten_thousand_random_cases(cpu: Any, threads: Callable[[int], Any]) -> None:
    fuzz(10_000, cpu, threads)
