"""The published vectors: as the library makes them today, read with numpy alone, and right by oracles that are not ours."""

from __future__ import annotations

import math
import runpy
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from lowbit import catalog
from lowbit.formats.table import TableFormat
from lowbit.quantizers.spec import find_format, quantizer
from lowbit.testing import golden
from lowbit.testing.exact import DETERMINISTIC, ExactFormat

FOLDER = Path(__file__).parent.parent.parent / "conformance"
read = SimpleNamespace(**runpy.run_path(str(FOLDER / "read.py")))

FORMATS = golden.stated_formats()
NAMES = sorted(FORMATS)
TABLES = [n for n in NAMES if isinstance(FORMATS[n], TableFormat)]
SMALL = [n for n in TABLES if FORMATS[n].bits <= 8]
WIDE = [n for n in NAMES if n not in SMALL and n not in golden.FURTHER]
QUANTIZERS = [entry.name for entry in catalog.entries("quantizer")]
Array = np.ndarray[Any, Any]
HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def by_speed(names: list[str]) -> list[Any]:
    """Formats of 16 bits take seconds a rounding."""
    return [pytest.param(n, marks=[pytest.mark.slow] * (n not in SMALL)) for n in names]


# ---- the files are what the library makes


def same(name: str, about: dict[str, Any], arrays: golden.Arrays) -> None:
    assert (FOLDER / f"{name}.npz").exists(), f"{name} is not published; run python conformance/write.py"
    said, stored = read.load(name)
    assert said["vectors"] == golden.VERSION and said["generator"] and said["lowbit"]
    assert {k: v for k, v in said.items() if k in about} == about, f"{name} changed; run python conformance/write.py"
    assert golden.digest(arrays) == said["digest"] == golden.digest(stored), f"{name} changed; run python conformance/write.py"


@pytest.mark.parametrize("name", by_speed(NAMES))
def test_formats_are_as_published(name: str) -> None:
    fmt = find_format(name)
    vectors = golden.format_vectors(fmt) if isinstance(fmt, TableFormat) else golden.sampled_vectors(fmt)
    same(f"formats/{name}", *vectors)


@pytest.mark.parametrize("name", [n for n in WIDE if n in TABLES])
def test_formats_of_16_bits_round_to_even_as_published(name: str) -> None:
    fmt = find_format(name)
    _, arrays = read.load(f"formats/{name}")
    for overflow in golden.OVERFLOWS:
        first, codes = golden.runs(fmt, catalog.find("rounding", "nearest_even"), overflow)
        assert np.array_equal(read.encode(name, first.astype(np.uint32).view(np.float32), "nearest_even", overflow), codes)
    assert np.array_equal(arrays["values"][0], golden.patterns(fmt.decode(torch.arange(1 << fmt.bits))))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_quantizers_are_as_published(name: str) -> None:
    found = golden.quantizer_vectors(catalog.find("quantizer", name))
    if found is None:
        assert not (FOLDER / "quantizers" / f"{name}.npz").exists()
    else:
        same(f"quantizers/{name}", *found)


def test_inputs_of_quantizers_are_as_published() -> None:
    x = torch.stack(list(golden.block_cases().values()))
    same("quantizers/inputs", {"cases": list(golden.block_cases())}, {"x": golden.patterns(x)})


def test_nothing_else_is_published() -> None:
    files = {file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.glob("*/*.npz")}
    assert {f for f in files if f.startswith("formats/")} == {f"formats/{n}" for n in NAMES}
    assert {f.removeprefix("quantizers/") for f in files if f.startswith("quantizers/")} <= {"inputs", *QUANTIZERS}
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) < 2_000_000


def test_the_reader_needs_numpy_alone_and_thirty_lines() -> None:
    assert sum(bool(line.strip()) for line in (FOLDER / "read.py").read_text().splitlines()) <= 30
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import read; "
        "print(read.encode('float8_e4m3fn', [0.3, -500.0]).tolist(), read.decode('float8_e4m3fn', [42, 254]).tolist(), "
        "read.load('quantizers/mxfp4')[0]['quantizer'], [m for m in ('lowbit', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(FOLDER)], capture_output=True, text=True, check=False)
    assert done.stdout == "[42, 254] [0.3125, -448.0] mxfp4 []\n", done.stdout + done.stderr


# ---- they are right


def ends_of_runs(name: str, *mode: Any) -> tuple[Array, Array]:
    """The first and the last float32 of every run of a mode, and their codes.

    What lies between two numbers of one code has that code under any monotone rounding, so these say all about 2**32 inputs.
    """
    first, codes = read.runs(name, *mode)
    last = np.append(first[1:] - np.uint32(1), np.uint32(0xFFFFFFFF))
    return np.concatenate([first, last]).view(np.float32), np.concatenate([codes, codes])


def check_runs(name: str, rounding: str, every: int = 1) -> None:
    """Both ends of every run by rational arithmetic."""
    fmt = find_format(name)
    about, arrays = read.load(f"formats/{name}")
    for table, values in enumerate(arrays["values"].view(np.float32).astype(np.float64).tolist()):
        exact = ExactFormat(
            values, odd=getattr(fmt, "odd", None), reserved=getattr(fmt, "reserved", frozenset()), middle=getattr(fmt, "middle", None),
            next=getattr(fmt, "after", None), never_overflows=getattr(fmt, "never_overflows", False),
        )  # fmt: skip
        seen: dict[tuple[int, ...], str] = {}
        for overflow in golden.OVERFLOWS:
            x, codes = ends_of_runs(name, rounding, overflow, table)
            span = tuple(about["modes"][f"{rounding} {overflow} {table}"])
            if span in seen and not (exact.nans[False] or exact.nans[True] or exact.infinite):
                continue  # the other overflow is the same: there is nothing to overflow to
            seen[span] = overflow
            for v, code in zip(x[::every].tolist(), codes[::every].tolist(), strict=True):
                want = exact.encode(v, rounding, overflow)
                assert code == want, f"{name} {rounding} {overflow} table {table}: {v!r} is published as {code}, exactly it is {want}"


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("name", SMALL)
def test_runs_of_codes_by_rational_arithmetic(name: str, rounding: str) -> None:
    check_runs(name, rounding)


@pytest.mark.parametrize("name", [n for n in WIDE if n in TABLES])
def test_some_runs_of_16_bits_by_rational_arithmetic(name: str) -> None:
    check_runs(name, "nearest_even", every=97)


@pytest.mark.slow
@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("name", [n for n in TABLES if n not in SMALL])
def test_every_run_of_16_bits_by_rational_arithmetic(name: str, rounding: str) -> None:
    check_runs(name, rounding)


def test_a_wrong_vector_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run that begins one float32 later than it should."""
    first, codes = read.runs("float8_e4m3fn")
    wrong = first.copy()
    wrong[40] += 1
    monkeypatch.setattr(read, "runs", lambda *_: (wrong, codes))
    with pytest.raises(AssertionError, match="exactly it is"):
        check_runs("float8_e4m3fn", "nearest_even")


ML_DTYPES = [n for n in NAMES if "float" in n and hasattr(ml_dtypes, n)]  # its integers wrap around


def test_ml_dtypes_has_what_is_compared_with_it() -> None:
    assert len(ML_DTYPES) >= 12


@pytest.mark.parametrize("name", ML_DTYPES)
def test_ml_dtypes_agrees(name: str) -> None:
    """All codes; all float16 numbers and both ends of every run. It overflows to Inf or NaN, and keeps -0 for NaN where there is none."""
    kind = getattr(ml_dtypes, name)
    bits = read.load(f"formats/{name}")[0]["bits"]
    codes = np.arange(1 << bits).astype(np.uint8 if bits <= 8 else np.uint16)
    with np.errstate(invalid="ignore"):
        values = codes.view(kind).astype(np.float32)
    own = read.decode(name, codes)
    assert np.array_equal(np.isnan(own), np.isnan(values))
    assert np.array_equal(own.view(np.uint32)[~np.isnan(own)], values.view(np.uint32)[~np.isnan(own)])
    x = np.concatenate([HALVES, ends_of_runs(name, "nearest_even", "special")[0]])
    x = x[~np.isnan(x)]
    if name == "float8_e8m0fnu":  # the rule of 1.5 times a power of two differs; see tests/formats/test_minifloat.py
        x = x[np.isfinite(x) & (x > 2.0**-126)]
        x = x[np.frexp(x)[0] != 0.75]
    with np.errstate(over="ignore", invalid="ignore"):
        want = x.astype(kind).view(codes.dtype)
    got = read.encode(name, x, "nearest_even", "special").astype(codes.dtype)
    if np.isnan(own).any():  # which NaN is its own affair
        both = np.isnan(own[got]) & np.isnan(own[want])
        got, want = got[~both], want[~both]
    assert np.array_equal(got, want)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_torch_agrees(name: str) -> None:
    x = torch.from_numpy(np.concatenate([HALVES, ends_of_runs(name, "nearest_even", "special")[0]]))
    x = x[~x.isnan()]
    want = x.to(getattr(torch, name)).view(torch.int16).int() & 0xFFFF
    assert torch.equal(torch.from_numpy(read.encode(name, x.numpy(), "nearest_even", "special").astype(np.int32)), want)


def posit_by_letters(code: int, bits: int, es: int) -> Fraction | None:
    """The number of a posit read off its bit string, letter by letter."""
    letters = f"{code:0{bits}b}"
    if "1" not in letters[1:]:
        return Fraction(0) if letters[0] == "0" else None
    sign = -1 if letters[0] == "1" else 1
    rest = f"{(1 << bits) - code:0{bits}b}"[1:] if sign < 0 else letters[1:]
    length = len(rest) - len(rest.lstrip(rest[0]))
    regime = length - 1 if rest[0] == "1" else -length
    tail = rest[length + 1 :] + "0" * es
    fraction = Fraction(int("1" + tail[es:], 2), 2 ** len(tail[es:]))
    return sign * Fraction(2) ** (regime * 2**es + (int(tail[:es], 2) if es else 0)) * fraction


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("posit") and n != "posit16_2"])
def test_posits_are_their_bit_strings(name: str) -> None:
    about, arrays = read.load(f"formats/{name}")
    bits, es = (int(v) for v in name.removeprefix("posit").split("_"))
    if about.get("sampled"):
        codes, values = arrays["codes"].tolist(), arrays["values"].view(np.float64).tolist()
    else:
        codes, values = range(1 << bits), arrays["values"][0].view(np.float32).tolist()
    for code, value in zip(codes, values, strict=True):
        want = posit_by_letters(code, bits, es)
        assert math.isnan(value) if want is None else Fraction(value) == want


def test_wide_posits_round_their_bit_strings() -> None:
    """posit32: nearest, ties to even, as the standard says: cut the number's endless bit string after 32 bits and look at the rest."""
    about, arrays = read.load("formats/posit32_2")
    codes = arrays["encoded"][about["modes"].index("nearest_even special")].tolist()
    for x, code in zip(arrays["inputs"].view(np.float64).tolist(), codes, strict=True):
        if not math.isfinite(x):
            assert code == 1 << 31
            continue
        size = abs(Fraction(x))
        magnitude = (1 << 32) - code if code >> 31 else code
        assert (code == 0) == (x == 0) and (code >> 31 == (x < 0))
        if size == 0:
            continue
        upper, lower = (posit_by_letters(2 * magnitude + d, 33, 2) for d in (1, -1))  # posits of one bit more lie between
        assert magnitude == 1 or (lower is not None and (size > lower or (size == lower and magnitude % 2 == 0))), x
        assert magnitude == (1 << 31) - 1 or (upper is not None and (size < upper or (size == upper and magnitude % 2 == 0))), x


# ---- blocks


def block_inputs() -> tuple[list[str], np.ndarray[Any, Any]]:
    about, arrays = read.load("quantizers/inputs")
    return about["cases"], arrays["x"].view(np.float32)


MX = {
    "mxfp4": (ml_dtypes.float4_e2m1fn, 32), "mxfp6": (ml_dtypes.float6_e2m3fn, 32), "mxfp6_e3m2": (ml_dtypes.float6_e3m2fn, 32),
    "mxfp8": (ml_dtypes.float8_e4m3fn, 32), "mxfp8_e5m2": (ml_dtypes.float8_e5m2, 32),
}  # fmt: skip


def assert_rows(name: str, want: np.ndarray[Any, Any]) -> None:
    got = read.load(f"quantizers/{name}")[1]["y"].view(np.float32)
    for case, ours, theirs in zip(block_inputs()[0], got, want, strict=True):
        equal = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        assert equal.all(), f"{name}, {case}: {ours[~equal][0]!r} is published, it should be {theirs[~equal][0]!r}"


@pytest.mark.parametrize("name", MX)
def test_mx_blocks_in_numpy(name: str) -> None:
    """OCP MX 1.0, 6.3: the exponent of the maximum less that of the element's largest number; elements to nearest even, clamped."""
    kind, block = MX[name]
    top = float(ml_dtypes.finfo(kind).max)
    x = block_inputs()[1].astype(np.float64).reshape(-1, block)
    want = np.full_like(x, np.nan)
    for row, out in zip(x, want, strict=True):
        largest = np.abs(row).max()
        if not np.isfinite(largest):
            continue
        e = int(np.clip(np.frexp(largest)[1] - np.frexp(top)[1], -127, 127)) if largest else 0
        with np.errstate(over="ignore"):
            out[:] = np.clip(row * 2.0**-e, -top, top).astype(kind).astype(np.float64) * 2.0**e
    assert_rows(name, want.astype(np.float32).reshape(-1, golden.COLUMNS))


def test_nvfp4_in_numpy() -> None:
    """arXiv:2509.25149, appendix B, each step a float32 operation, in the order that ``nvfp4`` states."""
    want = []
    f = np.float32
    for row in block_inputs()[1]:
        with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
            blocks = row.reshape(-1, 16)
            s = np.abs(blocks).max(1) / f(6)
            t = s.max() / f(448)
            stored = (s / t if t else s).astype(ml_dtypes.float8_e4m3fn).astype(f) * t
            y = np.where(stored[:, None] > 0, blocks / stored[:, None], f(0))
            values = np.clip(y, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(f) * stored[:, None]
            want.append(np.where(np.isfinite(s.max()), values, f(np.nan)).reshape(-1))
    assert_rows("nvfp4", np.stack(want))


def test_int4_in_numpy() -> None:
    """The largest magnitude over 7 as float16; codes are x over that, rounded to even, -8 to 7."""
    want = []
    for row in block_inputs()[1]:
        with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
            blocks = row.reshape(-1, 128)
            s = np.minimum(np.abs(blocks).max(1) / np.float32(7), np.float32(65504)).astype(np.float16).astype(np.float32)[:, None]
            finite = np.isfinite(np.abs(blocks).max(1))[:, None]
            y = np.where(s > 0, np.clip(np.rint(blocks / s), -8, 7) * s, np.float32(0))
            want.append(np.where(finite, y, np.float32(np.nan)).reshape(-1))
    found = golden.quantizer_vectors(quantizer("int4 g128"))
    assert found is not None
    got = found[1]["y"].view(np.float32)
    assert np.array_equal(got, np.stack(want), equal_nan=True)


def test_published_noise_is_what_roundings_do_with_it() -> None:
    about, arrays = read.load("formats/float8_e4m3fn")
    fmt = find_format("float8_e4m3fn")
    x, words = torch.from_numpy(arrays["inputs"].view(np.float32).copy()), torch.from_numpy(arrays["words"].astype(np.int64))
    assert about["noisy"] == [r.name for r in golden.roundings(noisy=True)]
    for name, codes in zip(about["noisy"], arrays["noisy"], strict=True):
        assert np.array_equal(fmt.encode(x, catalog.find("rounding", name), words).numpy(), codes)
