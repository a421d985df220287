"""Golden vectors: what a format and a quantizer do, as plain arrays that are read without lowbit (``conformance/read.py``).

A format is stated for every one of the 2**32 float32 inputs: in the order of their bit patterns the code changes only now and
then, so the patterns where it changes and the codes from there on are all. Arrays hold differences, which compress well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowbit import catalog
from lowbit.errors import LowbitError
from lowbit.formats.bit_format import BitFormat
from lowbit.formats.format import Overflow
from lowbit.formats.table import TableFormat
from lowbit.kernels.op import REFERENCE, backend
from lowbit.philox import Key, noise
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.spec import find_format
from lowbit.rounding.rounding import Rounding
from lowbit.testing.formats import all_codes, tables_of
from lowbit.threads import one_thread

Arrays = dict[str, np.ndarray[Any, Any]]

#: raised when the layout of the arrays changes
VERSION = 1

OVERFLOWS: tuple[Overflow, ...] = ("saturate", "special")
NOISY_INPUTS, COLUMNS = 256, 256

#: where a code can change without a cut point: signed zeros, the smallest numbers, Inf, NaN, and the same again with a sign
SEAMS = (0, 1, 0x7F800000, 0x7F800001, 0x80000000, 0x80000001, 0xFF800000, 0xFF800001)


def roundings(noisy: bool) -> list[Rounding]:
    """Every registered rounding that is a function of the number alone, or every other."""
    return [entry.thing for entry in catalog.entries("rounding") if entry.thing.noisy == noisy]


def patterns(numbers: Tensor) -> np.ndarray[Any, Any]:
    """The bits of float32 or float64 numbers; every NaN of a sign has the same."""
    array = numbers.contiguous().numpy()
    bits = array.view(np.uint32 if array.itemsize == 4 else np.uint64).copy()
    missing = np.isnan(array)
    quiet = np.array([np.nan, -np.nan], dtype=array.dtype).view(bits.dtype)
    bits[missing] = quiet[np.signbit(array[missing]).astype(int)]
    return bits


def floats(bits: np.ndarray[Any, Any]) -> Tensor:
    """The float32 numbers of bit patterns."""
    return torch.from_numpy(bits.astype(np.uint32).view(np.float32).copy())


def runs(fmt: TableFormat, rounding: Rounding, overflow: Overflow, table: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The first pattern and the code of every stretch of float32 bit patterns with one code.

    Raises:
        AssertionError: the encoder changes its code elsewhere than at its cut points.
    """
    cuts = fmt.cutpoints(rounding, torch.float32, overflow, table).numpy()
    own = cuts.view(np.uint32).astype(np.int64)
    first = np.unique(np.concatenate([np.array(SEAMS), own[cuts > 0], own[cuts < 0] + 1]))
    last = np.append(first[1:], 1 << 32) - 1
    which = torch.tensor(table) if fmt.alternatives else None
    at, until = (fmt.encode(floats(p), rounding, None, which, overflow).numpy().astype(np.int64) for p in (first, last))
    if not np.array_equal(at, until):
        i = int((at != until).argmax())
        raise AssertionError(f"{fmt.name} {rounding} {overflow}: the code changes within {first[i]:#x} to {last[i]:#x}")
    kept = np.append(True, at[1:] != at[:-1])
    return first[kept], at[kept]


def format_vectors(fmt: TableFormat, only: tuple[str, ...] = ()) -> tuple[dict[str, Any], Arrays]:
    """What there is to say about a table format: the numbers of all codes, and the codes of all float32 numbers.

    Shapes:
        values          (tables, codes) uint32, bits of float32
        pattern_steps   (runs of all modes,) uint32, differences of the first patterns of runs; their modes stand one after the other
        code_steps      the same, uint16, differences modulo 2**16
        inputs, words   (256,) uint32, float32 bits and the noise that noisy roundings are given
        noisy           (roundings, 256) uint16, their codes

    Args:
        only: these roundings; every one by default.
    """
    tables = tables_of(fmt)
    values = np.stack([patterns(fmt.decode(all_codes(fmt), table)) for table in tables])
    modes: dict[str, list[int]] = {}
    pattern_steps, code_steps, known = [], [], {}
    length = 0
    for rounding in roundings(noisy=False):
        if only and rounding.name not in only:
            continue
        for overflow in OVERFLOWS:
            for table in range(len(tables)):
                first, codes = runs(fmt, rounding, overflow, table)
                key = (first.tobytes(), codes.tobytes())
                if key not in known:
                    known[key] = [length, length + len(first)]
                    length += len(first)
                    pattern_steps.append(np.diff(first, prepend=0).astype(np.uint32))
                    code_steps.append((np.diff(codes, prepend=0) & 0xFFFF).astype(np.uint16))
                modes[f"{rounding.name} {overflow} {table}"] = known[key]
    arrays = {"values": values, "pattern_steps": np.concatenate(pattern_steps), "code_steps": np.concatenate(code_steps)}
    x, words = _between(fmt)
    noisy = [] if only else roundings(noisy=True)
    arrays |= {"inputs": patterns(x), "words": words.numpy().astype(np.uint32)}
    arrays["noisy"] = np.array([fmt.encode(x, r, words).numpy() for r in noisy], dtype=np.uint16).reshape(len(noisy), len(x))
    about = {"format": fmt.name, "bits": fmt.bits, "identity": fmt.identity, "modes": modes, "noisy": [r.name for r in noisy]}
    return about, arrays


def _between(fmt: TableFormat) -> tuple[Tensor, Tensor]:
    """Numbers somewhere between two of a format, and words of noise."""
    line = torch.tensor(fmt.lines[0].values, dtype=torch.float64)
    which, share, words = (noise(Key(0, fmt.name, role), (NOISY_INPUTS,)) for role in ("gap", "share", "rounding"))
    low, high = line[which % (len(line) - 1)], line[which % (len(line) - 1) + 1]
    return (low + share.double() / 2.0**32 * (high - low)).float(), words


def sampled_vectors(fmt: BitFormat, count: int = 512) -> tuple[dict[str, Any], Arrays]:
    """The same for formats that are too wide for a table, on samples.

    Shapes:
        codes, values   (n,) uint32 and uint64: words around powers of two and random ones, and the float64 bits of their numbers
        inputs          (m,) uint64: float64 bits of those numbers, of points between them and of their float64 neighbours
        encoded         (modes, m) uint32
    """
    words = noise(Key(0, fmt.name, "golden"), (count,)) & (1 << fmt.bits) - 1
    corners = torch.tensor([(1 << k) + d for k in range(fmt.bits) for d in (-1, 0, 1)]) % (1 << fmt.bits)
    codes = torch.cat((words, corners, -corners % (1 << fmt.bits))).unique()
    values = fmt.decode64(codes)
    line = values[torch.isfinite(values)].sort().values
    middles = torch.cat(((line[1:] + line[:-1]) / 2, torch.copysign((line[1:].abs() * line[:-1].abs()).sqrt(), line[1:])))
    centres = torch.cat((line, middles))
    beyond = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 5e-324, -5e-324, 1.7e308, -1.7e308], dtype=torch.float64)
    x = torch.cat((centres, torch.nextafter(centres, beyond[2]), torch.nextafter(centres, beyond[3]), beyond))
    names = [(rounding, overflow) for rounding in roundings(noisy=False) for overflow in OVERFLOWS]
    encoded = np.stack([fmt.encode(x, rounding, overflow=overflow).numpy().astype(np.uint32) for rounding, overflow in names])
    arrays = {"codes": codes.numpy().astype(np.uint32), "values": patterns(values), "inputs": patterns(x), "encoded": encoded}
    about = {"format": fmt.name, "bits": fmt.bits, "identity": fmt.identity, "sampled": True}
    return about | {"modes": [f"{rounding.name} {overflow}" for rounding, overflow in names]}, arrays


# ---- blocks


def block_cases() -> dict[str, Tensor]:
    """Rows of 256 float32 numbers where the scales of blocks go wrong; by exact arithmetic, so that they are the same on every machine."""
    uniform = (noise(Key(0, "uniform", "golden"), (COLUMNS,)) >> 8).float() / 2.0**24
    words = noise(Key(0, "bell", "golden"), (12, COLUMNS)) >> 12
    bell = ((words.sum(0) - 6 * 2**20).double() / 2.0**20).float()  # twelve uniform numbers less 6: nearly standard normal
    ramp = (torch.arange(COLUMNS) - (COLUMNS - 1) / 2) / 42.5
    spread = torch.ldexp(bell.sign(), torch.arange(COLUMNS) // 4 - 32)
    halfway = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 4.0])
    ties = torch.cat((halfway, -halfway)).repeat(COLUMNS // 16)

    def first(x: Tensor, value: float) -> Tensor:
        """x with a value at the start of every 64 numbers."""
        y = x.clone()
        y[::64] = value
        return y

    return {
        "bell": bell,
        "heavy tails": bell * bell * bell,
        "uniform positive": uniform,
        "all negative": -uniform,
        "a ramp": ramp,
        "sixty-four binades": spread,
        "zeros": torch.zeros(COLUMNS),
        "negative zeros": -torch.zeros(COLUMNS),
        "ones": torch.ones(COLUMNS),
        "one number": first(torch.zeros(COLUMNS), -3.0),
        "one outlier": first(bell, 1000.0),
        "one negative outlier": first(bell, -1000.0),
        "a block of zeros": torch.cat((torch.zeros(COLUMNS // 2), bell[: COLUMNS // 2])),
        "ties of e2m1": first(ties, 6.0),
        "ties below 4": first(ties.clamp(-3.5, 3.5), 4.0),
        "just below 8": first(ramp, float(np.nextafter(np.float32(8), np.float32(0)))),
        "exactly 8": first(ramp, 8.0),
        "maximum from 4 to 8": torch.cat([first(ramp.clamp(-3, 3)[:64], 4.0 + k) for k in range(4)]),
        "2**-126": bell * 2.0**-126,
        "subnormal": bell * 2.0**-140,
        "smallest": first(torch.zeros(COLUMNS), 1e-45),
        "2**126": ramp / 3 * 2.0**127,
        "largest": first(bell, torch.finfo(torch.float32).max),
        "NaN": first(bell, torch.nan),
        "Inf": first(bell, torch.inf),
        "negative Inf": first(bell, -torch.inf),
    }


def quantizer_vectors(quantizer: Quantizer) -> tuple[dict[str, Any], Arrays] | None:
    """What a quantizer makes of each block case, taken as a tensor of one row; None where its blocks do not divide one.

    Shapes:
        y           (cases, 256) uint32, float32 bits
        part NAME   (cases, bytes) uint8, the packed parts in the layout of ``lowbit.packing``
    """
    ys, parts = [], []
    for x in block_cases().values():
        try:
            q = quantizer.quantize(x.reshape(1, -1))
        except LowbitError:
            return None
        ys.append(patterns(q.dequantize().float().reshape(-1)))
        parts.append({name: part.reshape(-1).view(torch.uint8).numpy() for name, part in q.packed().items()})
    arrays = {"y": np.stack(ys)} | {f"part {name}": np.stack([p[name] for p in parts]) for name in parts[0]}
    return {"cases": list(block_cases())}, arrays


# ---- files


def digest(arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Of names, shapes, dtypes and bytes; what compressed them does not matter."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        total.update(f"{name} {little.dtype.str} {little.shape}".encode() + little.tobytes())
    return total.hexdigest()


#: members of families that are stated too
FURTHER = ("posit16_1", "posit16_2", "posit32_2")


def stated_formats() -> dict[str, TableFormat | BitFormat]:
    """Every registered format by name, and some members of families."""
    found = [entry.thing for entry in catalog.entries("format")] + [find_format(name) for name in FURTHER]
    return {fmt.name: fmt for fmt in found if isinstance(fmt, TableFormat | BitFormat)}


def all_vectors() -> Iterator[tuple[str, dict[str, Any], Arrays]]:
    """File name, description and arrays of every registered format and quantizer, and of the inputs of quantizers."""
    with one_thread(), backend(REFERENCE):
        for name, fmt in stated_formats().items():
            yield f"formats/{name}", *(sampled_vectors(fmt) if isinstance(fmt, BitFormat) else format_vectors(fmt))
        x = torch.stack(list(block_cases().values()))
        yield "quantizers/inputs", {"cases": list(block_cases())}, {"x": patterns(x)}
        for entry in catalog.entries("quantizer"):
            found = quantizer_vectors(entry.thing)
            if found is not None:
                yield f"quantizers/{entry.name}", {"quantizer": entry.name, **found[0]}, found[1]
