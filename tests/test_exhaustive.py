"""Every backend on every registered format: all codes, all 65,536 float16 numbers, both ends of every run, every rounding, every target."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lowbit import catalog
from lowbit.formats.table import TableFormat
from lowbit.kernels.op import QUANTIZE, REFERENCE, backend, extension
from lowbit.philox import Key, noise
from lowbit.quantizers.lowering import numbers_of
from lowbit.quantizers.scheme import cast
from lowbit.quantizers.spec import find_format
from lowbit.rounding.rounding import Rounding
from lowbit.rounding.stochastic import stochastic
from lowbit.testing import golden

Array = np.ndarray[Any, Any]

#: the published vectors, which tests/testing/test_golden.py holds against oracles that are not ours
read = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent.parent / "conformance" / "read.py")))

FORMATS = {e.thing.name: e.thing for e in catalog.entries("format") if isinstance(e.thing, TableFormat)}
NAMES = sorted(FORMATS)
WIDE = [n for n in NAMES if FORMATS[n].bits > 8]
SMALL = [n for n in NAMES if FORMATS[n].bits <= 8]
HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
RULES: tuple[Rounding, ...] = tuple(golden.roundings(noisy=False))


@pytest.fixture(scope="module")
def cpu() -> Any:
    module: Any = extension("lowbit._cpu")
    if module is None:
        pytest.skip("lowbit._cpu was not built; tests/kernels/test_op.py fails for that")
    return module


def each_backend(module: Any) -> list[tuple[str, str]]:
    return [(REFERENCE, ""), *(("cpu", target) for target in module.targets())]


def agree(name: str, rules: tuple[Rounding, ...], cpu: Any) -> None:
    """All float16 numbers and both ends of every run: the same codes from the reference and every target, under each rounding."""
    fmt = find_format(name)
    for rounding in rules:
        for overflow in golden.OVERFLOWS:
            first, _ = read.runs(name, rounding.name, overflow)
            ends = np.concatenate([first, first - np.uint32(1)]).view(np.float32)
            x = np.concatenate([HALVES, ends])
            want = torch.from_numpy(read.encode(name, x, rounding.name, overflow).astype(np.int64))
            for way, target in each_backend(cpu):
                q = cast(fmt, overflow, rounding)
                with backend(way):
                    if way == "cpu":
                        assert cpu.use_target(target)
                        if QUANTIZE.plan(torch.from_numpy(x), q.lowered, None)[0] is None:
                            assert fmt.alternatives, "the extension refuses"
                            continue
                    codes = q.quantize(torch.from_numpy(x)).codes.long()
                differ = (codes != want).nonzero().flatten()
                if len(differ):
                    i = int(differ[0])
                    raise AssertionError(
                        f"{name} {rounding} {overflow}, {way} {target}: {x[i]!r} -> {int(codes[i])}, published is {int(want[i])}"
                    )


@pytest.mark.parametrize("name", SMALL)
def test_every_backend_encodes_as_published(name: str, cpu: Any) -> None:
    before = cpu.target()
    agree(name, RULES, cpu)
    assert cpu.use_target(before)


@pytest.mark.parametrize("name", WIDE)
def test_every_backend_rounds_16_bits_to_even_as_published(name: str, cpu: Any) -> None:
    before = cpu.target()
    agree(name, (catalog.find("rounding", "nearest_even"),), cpu)
    assert cpu.use_target(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_every_backend_encodes_16_bits_as_published(name: str, cpu: Any) -> None:
    before = cpu.target()
    agree(name, RULES, cpu)
    assert cpu.use_target(before)


@pytest.mark.parametrize("name", NAMES)
def test_every_backend_decodes_as_published(name: str, cpu: Any) -> None:
    """All codes, read as they are packed."""
    fmt, before = find_format(name), cpu.target()
    codes = torch.arange(read.load(f"formats/{name}")[1]["values"].shape[1])
    want = read.decode(name, codes.numpy()).view(np.uint32)
    stored = cast(fmt).quantize(torch.zeros(len(codes)))
    stored.codes.copy_(codes)
    for way, target in each_backend(cpu):
        if way == "cpu":
            if fmt.alternatives:
                continue
            assert cpu.use_target(target)
        with backend(way):
            assert np.array_equal(golden.patterns(stored.dequantize()), want), f"{name}, {way} {target}"
    assert cpu.use_target(before)


# ---- roundings with noise


def is_float32(x: Array) -> Array:
    return x.astype(np.float32).astype(np.float64) == x


def promised(rounding: str, share: Array, words: Array) -> tuple[Array, Array]:
    """By the definitions in float64: whether a number goes up, and whether that is sure where shares are inexact float32 quotients."""
    u, hair = words / 2.0**32, 2.0**-22
    match rounding:
        case "stochastic":
            threshold, drawn = share, np.floor(u * 2.0**24) / 2.0**24
        case "dithered":
            threshold, drawn = share, 0.5 - ((np.floor(u * 2.0**24) + 0.5) / 2.0**24 - 0.5)
            return share >= drawn, np.abs(share - drawn) > hair
        case "random_direction":
            return u >= 0.5, np.ones(len(u), dtype=bool)
        case _:
            bits = int(rounding.removeprefix("stochastic").removesuffix("_cut"))
            exact = share * 2.0**bits + (0.0 if rounding.endswith("_cut") else 0.5)
            threshold, drawn = np.floor(exact) / 2.0**bits, np.floor(u * 2.0**bits) / 2.0**bits
            return drawn < threshold, np.abs(exact - np.rint(exact)) > hair * 2.0**bits
    return drawn < threshold, np.abs(drawn - threshold) > hair


@pytest.mark.parametrize("name", SMALL)
def test_roundings_with_noise_by_their_definitions(name: str, cpu: Any) -> None:
    """All float16 numbers between the ends of a format; where a float32 share may decide, one of the two neighbours is taken."""
    fmt, before = find_format(name), cpu.target()
    values = read.load(f"formats/{name}")[1]["values"][0].view(np.float32).astype(np.float64)
    produced = np.array([v for c, v in enumerate(values) if c not in fmt.reserved and np.isfinite(v)])
    line = np.unique(produced)
    x = HALVES[np.isfinite(HALVES)]
    x = x[(x >= line[0]) & (x < line[-1])]
    words = noise(Key(9, name), (len(x),))
    i = np.searchsorted(line, x.astype(np.float64), side="right") - 1
    low, high = line[i], line[i + 1]
    share = (x - low) / (high - low)
    exact = is_float32(x - low) & is_float32(high - low) & is_float32(share)
    sure_share = 0.0
    for rounding in golden.roundings(noisy=True):
        rises, sure = promised(rounding.name, share, words.numpy().astype(np.float64))
        want, sure = np.where(rises & (x > low), high, low), sure | exact
        expected = None
        for way, target in each_backend(cpu):
            if way == "cpu":
                if rounding is not stochastic or isinstance(numbers_of(fmt, rounding, "saturate"), str):
                    continue
                assert cpu.use_target(target)
            with backend(way):
                got = cast(fmt, "saturate", rounding).quantize(torch.from_numpy(x), noise=words).dequantize().double().numpy()
            expected = got if expected is None else expected
            assert np.array_equal(got, expected), f"{name} {rounding}, {way} {target}: other than the reference"
            assert ((got == low) | (got == high)).all(), f"{name} {rounding}, {way} {target}: not a neighbour"
            assert (got == want)[sure].all(), f"{name} {rounding}, {way} {target}: {x[sure & (got != want)][:3]}"
        sure_share += sure.mean() / len(golden.roundings(noisy=True))
    assert len(x) == 0 or sure_share > 0.9
    assert cpu.use_target(before)


EVERYTHING = ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "posit8_1", "hifloat8", "nf4_element", "int8", "dynamic8")


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERYTHING)
def test_all_float32_numbers_are_encoded_as_published(name: str, cpu: Any) -> None:
    """All 2**32 bit patterns, one by one, on the widest target."""
    first, codes = read.runs(name)
    q, block = cast(find_format(name)), 1 << 24
    edges = first.astype(np.int64)
    with backend("cpu"):
        for start in range(0, 1 << 32, block):
            pattern = np.arange(start, start + block, dtype=np.int64).astype(np.uint32)
            found = q.quantize(torch.from_numpy(pattern.view(np.float32))).codes.numpy()
            low, high = np.searchsorted(edges, [start, start + block - 1], side="right")
            inside = np.concatenate([[start], edges[low:high], [start + block]])
            want = np.repeat(codes[low - 1 : high].astype(np.uint8), np.diff(inside))
            if not np.array_equal(found, want):
                i = int((found != want).argmax())
                raise AssertionError(f"{name}: {pattern[i]:#010x} -> {found[i]}, published is {want[i]}")
