"""lowbit show FORMAT_OR_SPEC: a format's facts, codes, number line and precision; a spec's parts and bytes; errors beside all others."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Annotated, Any

import torch
import typer

from lowbit import catalog
from lowbit.blocks import Blocks
from lowbit.cli.list import record
from lowbit.errors import LowbitError, ShapeError
from lowbit.evaluation.format_error import DISTRIBUTIONS, Row, comparison, format_errors, gaussian, quantizer_rows, relative_mse, sqnr_db
from lowbit.evaluation.format_picture import codes_text, number, picture, precision
from lowbit.formats.format import Format
from lowbit.formats.table import TableFormat
from lowbit.packing import packed_nbytes
from lowbit.quantizers.grid import table_bits
from lowbit.quantizers.quantizer import Quantizer, bits_per_element
from lowbit.quantizers.scheme import Scheme
from lowbit.quantizers.spec import format_named, quantizer, text

DEFAULT_BLOCKS = Blocks((32,))  # in which formats are compared


# ---- formats


def facts(fmt: Format) -> dict[str, Any]:
    """What follows from the definition of a format; numbers only where it is a table."""
    smallest = fmt.min_positive if fmt.max > 0 else None  # int1 holds -1 and 0
    found: dict[str, Any] = {
        "name": fmt.name,
        "bits": fmt.bits,
        "levels": fmt.levels,
        "information_bits": math.log2(fmt.levels),
        "min": fmt.min,
        "max": fmt.max,
        "min_positive": smallest,
        "binades": None if smallest is None else math.log2(fmt.max / smallest),
        "range_db": None if smallest is None else 20 * math.log10(fmt.max / smallest),
        "absmax_to": fmt.top,
        "step_at_top": fmt.step_at_top,
        "identity": fmt.identity,
    }
    if isinstance(fmt, TableFormat):
        numbers = sorted({v for v in fmt.values if math.isfinite(v)})
        steps = [(high - low) / low for low, high in pairwise([v for v in numbers if v > 0])]
        produced = [v for code, v in enumerate(fmt.values) if code not in fmt.reserved]
        found |= {
            "numbers": len(numbers),
            "least_relative_step": min(steps) if steps else None,
            "largest_relative_step": max(steps) if steps else None,
            "zeros": sum(v == 0 for v in produced),
            "nans": sum(math.isnan(v) for v in produced),
            "infinities": sum(math.isinf(v) for v in produced),
            "reserved": sorted(fmt.reserved),
            "alternatives": len(fmt.alternatives),
        }
    return found


def format_text(fmt: Format) -> str:
    """The facts of a format for reading."""
    f = facts(fmt)
    smallest = "none positive"
    if f["min_positive"] is not None:
        smallest = f"smallest positive {number(f['min_positive'])}: {f['binades']:.1f} binades, {f['range_db']:.0f} dB"
    lines = [
        f"format {f['name']}",
        f"  {f['bits']} bits a code, {f['levels']} codes in use: {f['information_bits']:.3f} bits of information",
        f"  numbers from {number(f['min'])} to {number(f['max'])}, {smallest}",
    ]
    if "numbers" in f:
        if f["least_relative_step"] is not None:
            least, largest = f["least_relative_step"], f["largest_relative_step"]
            lines.append(f"  step between positive neighbours, relative to the lower one: {least:.4g} to {largest:.4g}")
        present = [f"{f['zeros']} zero" + "s" * (f["zeros"] != 1), f"{f['nans']} NaN", f"{f['infinities']} Inf"]
        present += [f"{len(f['reserved'])} code that is read but never written"] if f["reserved"] else []
        present += [f"{f['alternatives']} alternative tables that are not drawn"] if f["alternatives"] else []
        lines.append(f"  {f['numbers']} different numbers; {', '.join(present)}")
    lines.append(f"  absmax maps the largest magnitude of a block to {number(f['absmax_to'])}")
    return "\n".join(lines)


# ---- specs


def levels(value: Quantizer, shape: tuple[int, ...], name: str = "") -> dict[str, int]:
    """Bytes of each part of a packed tensor; their sum is ``nbytes(shape)``. A quantizer that is no Scheme is one part."""
    if not isinstance(value, Scheme):
        return {f"{name}all": value.nbytes(shape)}
    found = {f"{name}codes": packed_nbytes(math.prod(shape), value.format.bits)}
    if value.scaling is None:
        return found
    counts = value.blocks.counts(shape)
    blocks = math.prod(counts)
    match value.blocks.size:
        case tuple():
            sample = value.blocks.axes(shape)
        case size:
            sample = (size or 4,)
    plain = replace(value, scale_quantizer=None, offset_quantizer=None, center=None)
    grid = plain.grid(torch.ones(sample))  # one block, to see which parts the scaling gives
    for part, stored in (("scale", grid.scale), ("negative", grid.negative)):
        if stored is not None:
            inner = value.scale_quantizer
            found |= {f"{name}{part}": 4 * blocks} if inner is None else levels(inner, counts, f"{name}{part}.")
    if grid.zero is not None:
        found[f"{name}zero"] = packed_nbytes(blocks, value.format.bits)
    if grid.table is not None:
        found[f"{name}table"] = packed_nbytes(blocks, table_bits(value.format))
    if grid.offset is not None or value.center is not None:
        counts = counts if value.center is None else value.center.counts(shape)
        inner = value.offset_quantizer
        found |= {f"{name}offset": 4 * math.prod(counts)} if inner is None else levels(inner, counts, f"{name}offset.")
    return found


def blocks_words(blocks: Blocks) -> str:
    """Who shares a scale, in words."""
    match blocks.size:
        case None:
            words = "the whole tensor"
        case int(n):
            words = f"{n} numbers in memory order, across rows"
        case (0,):
            words = "a row (all of the last axis)"
        case (n,):
            words = f"{n} neighbours along the last axis"
        case size:
            words = f"a tile of {' x '.join('all' if n == 0 else str(n) for n in size)}"
    return words + (", the last one may be shorter" if blocks.ragged else "")


def parts(value: Quantizer, indent: str = "  ") -> list[str]:
    """What a quantizer consists of, a line each."""
    if not isinstance(value, Scheme):
        return [f"{indent}{type(value).__name__}: a grid of its own"]
    lines = [f"{indent}numbers     {value.format.name}, {value.format.bits} bits; rounding {value.rounding}, overflow {value.overflow}"]
    if value.scaling is None:
        return [*lines, f"{indent}scale       none, a cast"]
    lines.append(f"{indent}one scale   {blocks_words(value.blocks)}")
    summary = (type(value.scaling).__doc__ or "").strip().partition("\n")[0].rstrip(":")
    lines.append(f"{indent}scale rule  {value.scaling}" + f": {summary}" * bool(summary))
    if value.center is not None:
        lines.append(f"{indent}mean        subtracted first, one for {blocks_words(value.center)}")
    for what, inner in (("scales", value.scale_quantizer), ("offsets", value.offset_quantizer)):
        if inner is not None:
            lines += [f"{indent}{what} are stored as", *parts(inner, indent + "    ")]
        elif what == "scales":
            lines.append(f"{indent}scales are stored as float32")
    return lines


def spec_text(value: Quantizer, shape: tuple[int, ...], mse: float | None) -> str:
    """A quantizer for reading: its parts, what each level costs, its error."""
    costs, elements = levels(value, shape), math.prod(shape)
    lines = [f"quantizer {text(value)}", *parts(value), f"  a tensor of {' x '.join(map(str, shape))} takes"]
    lines += [f"    {name:<20}{nbytes:>14,} bytes {8 * nbytes / elements:>10.4f} bits an element" for name, nbytes in costs.items()]
    lines.append(f"    {'in all':<20}{sum(costs.values()):>14,} bytes {bits_per_element(value, shape):>10.4f} bits an element")
    if mse is not None:
        lines.append(f"  Gaussian numbers: relative squared error {mse:.3g}, SQNR {sqnr_db(mse):.2f} dB")
    return "\n".join(lines)


# ---- beside all others


def comparison_text(rows: list[Row], blocks: Blocks, quantized: bool) -> str:
    """The sorted table of relative squared errors."""
    if not rows:
        return "  errors are compared for formats that are tables with numbers of both signs, which this is not"
    many = any(not r.best for r in rows)
    title = "all registered formats of as many bits" + (", and quantizers within half a bit" if many else "")
    lines = [f"  relative squared error of {title}; sorted by the {'second' if quantized else 'first'} Gaussian column;"]
    lines.append("  the bits of a format are those of its codes, the bits of a quantizer hold its scales too")
    width = max(len(r.name) for r in rows) + 2
    head = "".join(f"{d:>14}" for d in DISTRIBUTIONS)
    lines.append(f"  {'':<{width}}{'':>6}{'one scale, the best':>42}{f'absmax, {blocks}, float32':>42}")
    lines.append(f"  {'':<{width}}{'bits':>6}{head}{head}")
    for r in rows:
        best = "".join(f"{e:>14.3g}" for e in r.best) or f"{'its own scales':>42}"
        cells = "".join(f"{'' if math.isnan(e) else f'{e:.3g}':>14}" for e in r.blocks)
        lines.append(f"{'>' if r.own else ' '} {r.name:<{width}}{r.bits:>6.2f}{best}{cells}".rstrip())
    return "\n".join(lines)


def compared(fmt: Format | None, spec: str, value: Quantizer | None) -> tuple[list[Row], Blocks]:
    """The rows for what is shown, and the blocks of their second half: those of a quantizer that has some, else 32 neighbours."""
    if value is None:
        return ([] if fmt is None else comparison(fmt, DEFAULT_BLOCKS)), DEFAULT_BLOCKS
    blocks = value.blocks if isinstance(value, Scheme) and value.scaling is not None else DEFAULT_BLOCKS
    if isinstance(value, Scheme):
        return comparison(value.format, blocks, (spec, value)), blocks
    return quantizer_rows(spec, value), blocks


# ---- the command


def shape_of(words: str) -> tuple[int, ...]:
    """``4096x4096`` as (4096, 4096).

    Raises:
        ShapeError: anything else.
    """
    sizes = words.lower().split("x")
    if not all(s.isdecimal() and int(s) > 0 for s in sizes):
        raise ShapeError(f"--shape {words!r} is no shape; write 4096x4096")
    return tuple(map(int, sizes))


def measured(value: Quantizer) -> float | None:
    """The relative squared error on Gaussian numbers, None where the quantizer is not made for tensors of two axes."""
    try:
        mse = relative_mse(value, gaussian())
    except LowbitError:
        return None
    return mse if math.isfinite(mse) else None


def run(
    spec: Annotated[str, typer.Argument(metavar="FORMAT_OR_SPEC", help='For instance nvfp4, e4m3fn, e3m2f, q2.5 or "int4 g64".')],
    shape: Annotated[str, typer.Option(help="The tensor whose bytes are counted.")] = "4096x4096",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the facts, codes and precision of a number format, or the parts and bytes of a spec, and their errors beside all others.

    Errors are relative and squared, on Gaussian, Laplace and Student-t numbers, with the best scale for all of them and with scales in
    blocks. A name that is both a format and a quantizer, as int4 is, is shown as both.
    """
    size = shape_of(shape)
    fmt = format_named(spec)
    value = None if fmt is not None and catalog.lookup("quantizer", spec) is None else quantizer(spec)
    errors = {} if fmt is None else format_errors(fmt)
    mse = None if value is None else measured(value)
    rows, blocks = compared(fmt, spec, value)
    if as_json:
        print(
            json.dumps(
                finite(as_record(spec, fmt, errors, value, size, mse) | {"compared": [asdict(r) for r in rows]}), indent=1, allow_nan=False
            )
        )
        return
    sections = []
    if fmt is not None:
        sections.append(format_text(fmt))
        if isinstance(fmt, TableFormat):
            sections += [part for part in (codes_text(fmt), picture(fmt), precision(fmt)) if part]
        if errors:
            lines = [f"    {way:<8}{m:>12.3g}{sqnr_db(m):>10.2f} dB" for way, m in errors.items()]
            sections.append("\n".join(["  Gaussian numbers: relative squared error and SQNR, absmax scales in float32", *lines]))
    if value is not None:
        sections.append(spec_text(value, size, mse))
        if fmt is None and isinstance(value, Scheme):
            sections.append(f"  `lowbit show {value.format.name}` draws the numbers")
    sections.append(comparison_text(rows, blocks, value is not None))
    print("\n\n".join(sections))


def as_record(
    spec: str, fmt: Format | None, errors: dict[str, float], value: Quantizer | None, shape: tuple[int, ...], mse: float | None
) -> dict[str, Any]:
    """What ``--json`` prints; null for the half that the name does not mean."""
    format_part = quantizer_part = None
    if fmt is not None:
        entry = catalog.lookup("format", spec)
        format_part = facts(fmt) | {
            "entry": None if entry is None else record(entry),
            "values": list(fmt.values) if isinstance(fmt, TableFormat) else None,
            "gaussian": [{"blocks": way, "relative_mse": m, "sqnr_db": sqnr_db(m)} for way, m in errors.items()],
        }
    if value is not None:
        quantizer_part = {
            "spec": text(value),
            "parts": [line.strip() for line in parts(value)],
            "shape": list(shape),
            "nbytes": value.nbytes(shape),
            "bits_per_element": bits_per_element(value, shape),
            "levels": levels(value, shape),
            "gaussian": None if mse is None else {"relative_mse": mse, "sqnr_db": sqnr_db(mse)},
        }
    return {"format": format_part, "quantizer": quantizer_part}


def finite(value: Any) -> Any:
    """NaN and Inf as strings, which JSON can hold."""
    match value:
        case float() if not math.isfinite(value):
            return number(value)
        case dict():
            return {k: finite(v) for k, v in value.items()}
        case list() | tuple():
            return [finite(v) for v in value]
    return value
