"""Spec strings: quantizers written as text, which print short and parse back. They contain no comma.

::

    spec   = head { token }
    head   = a registered quantizer (nvfp4) or format (float4_e2m1fn) | e<E>m<M>.. | q<I>.<F> | table(-1;0;1)
           | best(e2m1 row;e1m2f row)                             of schemes of one size the one with the least error
           | augmented(nvfp4;64)                                  the errors of the last 64 channels are quantized too
    token  = g64 | row | tensor | flat64 | 128x128 | ragged       who shares a scale
           | absmax | minmax | mse | floor | percentile:0.99 ..   the scale rule, parameters after colons
           | asym                                                 an unsigned integer, minmax and a zero point
           | cast                                                 no scale at all
           | scale=float16 | scale=(float8_e4m3fn tensor)         how scales are stored; float32 is 4 plain bytes
           | offset=... | center=tensor                           the same for offsets; a mean that is subtracted first
           | round=stochastic | overflow=special

A head that is a format and has a block or a rule gets ``absmax`` and ``scale=float16`` unless it says otherwise; one
that stands alone is a cast. Tokens after a registered quantizer change that part of it: ``mxfp4 rceil``, ``nvfp4 g32``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import numpy as np

from lowbit import catalog
from lowbit.blocks import Blocks
from lowbit.errors import LowbitError, SpecError
from lowbit.formats.format import Format
from lowbit.formats.minifloat import float16
from lowbit.formats.table import TableFormat
from lowbit.quantizers.augmented import Augmented
from lowbit.quantizers.best import Best
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.absmax import absmax
from lowbit.scaling.minmax import minmax
from lowbit.scaling.scaling import Scaling

BLOCK = re.compile(r"g(?P<group>\d+)|flat(?P<flat>\d+)|(?P<tile>\d+(?:x\d+)+)|(?P<word>row|channel|token|tensor)")
KEYS = ("scale", "offset", "center", "round", "overflow")


def quantizer(spec: str | Quantizer) -> Quantizer:
    """The quantizer that a spec string describes; a quantizer is returned as it is.

    Raises:
        SpecError: the string cannot be parsed; the message repeats it with a caret under the place.
    """
    return spec if not isinstance(spec, str) else _parse(spec)


@lru_cache(maxsize=512)
def _parse(spec: str) -> Quantizer:
    tokens = _tokens(spec)
    if not tokens:
        raise SpecError("an empty spec; try 'nvfp4' or 'int4 g64'")
    (start, head), rest = tokens[0], tokens[1:]
    base, plain = _head(spec, start, head)
    if not rest:
        return base
    if not isinstance(base, Scheme):
        raise _error(spec, rest[0][0], f"{head} has a grid of its own and takes no further words")
    return _apply(spec, base, plain, rest)


def _tokens(spec: str) -> list[tuple[int, str]]:
    """Words and their places; parentheses hold words together."""
    found: list[tuple[int, str]] = []
    depth, start = 0, -1
    for i, letter in enumerate(spec + " "):
        if letter == "," and i < len(spec):
            raise _error(spec, i, "no comma in a spec; words are separated by spaces")
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            raise _error(spec, i, "a parenthesis is closed that was not opened")
        if letter.isspace() and (depth == 0 or i == len(spec)):
            if start >= 0:
                found.append((start, spec[start:i]))
            start = -1
        elif start < 0:
            start = i
    if depth:
        raise _error(spec, spec.index("("), "a parenthesis is not closed")
    return found


def _head(spec: str, start: int, head: str) -> tuple[Quantizer, bool]:
    """What the first word names, and whether it is a bare format."""
    entry = catalog.lookup("quantizer", head)
    if entry is not None:
        return entry.thing, False
    kind, opened, inside = head.partition("(")
    if opened and head.endswith(")") and kind in COMPOUND:
        try:
            return COMPOUND[kind](_outside(inside[:-1], ";")), False
        except LowbitError as error:
            raise _error(spec, start, str(error).partition("\n")[0]) from None
    try:
        fmt = format_named(head)
    except LowbitError as error:
        raise _error(spec, start, str(error)) from None
    if fmt is None:
        known = [*catalog.names("quantizer"), *catalog.names("format")]
        first, *rest = re.split("[:,/_-]", head, maxsplit=1)
        hint = f"; words stand apart: {first + ' ' + rest[0]!r}" if rest and first in known else catalog.nearest(head, known)
        raise _error(spec, start, f"no quantizer or format is called {head!r}{hint}")
    return cast(fmt), True


def _best(options: list[str]) -> Best:
    return Best(tuple(quantizer(option.strip()) for option in options))  # type: ignore[misc] # checked by Best


def _augmented(words: list[str]) -> Augmented:
    if len(words) != 2 or not words[1].strip().isdecimal():
        raise SpecError("augmented() takes a quantizer and a number of channels: augmented(nvfp4;64)")
    return Augmented(quantizer(words[0].strip()), int(words[1]))


#: name before the parenthesis -> what stands inside, cut at semicolons, as a quantizer
COMPOUND: dict[str, Callable[[list[str]], Quantizer]] = {"best": _best, "augmented": _augmented}


def _outside(words: str, separator: str) -> list[str]:
    """The parts between separators that are in no parentheses."""
    parts, depth = [""], 0
    for letter in words:
        depth += (letter == "(") - (letter == ")")
        if letter == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def format_named(name: str) -> Format | None:
    """A registered format, a member of a family (``e3m5f``, ``q2.6``) or a literal ``table(-1;0;1)``; None if there is none."""
    entry = catalog.lookup("format", name)
    if entry is not None:
        return entry.thing  # type: ignore[no-any-return]
    for family in catalog.entries("format family"):
        fmt = family.thing(name)
        if fmt is not None:
            return fmt  # type: ignore[no-any-return]
    if name.startswith("table(") and name.endswith(")"):
        try:
            values = tuple(float(v) for v in name[6:-1].split(";"))
        except ValueError:
            return None
        return TableFormat(_table_name(values), values)
    return None


def _table_name(values: tuple[float, ...]) -> str:
    """``table(-1;0.1;1)``, each number as short as float32 allows."""
    with np.errstate(over="ignore"):
        return "table(" + ";".join(str(np.float32(v)).removesuffix(".0") for v in values) + ")"


def find_format(name: str) -> Format:
    """As ``format_named``, but a missing name is an error.

    Raises:
        UnknownName: no format has this name.
    """
    fmt = format_named(name)
    return catalog.find("format", name) if fmt is None else fmt  # type: ignore[no-any-return]


def _apply(spec: str, base: Scheme, plain: bool, tokens: list[tuple[int, str]]) -> Scheme:
    changes: dict[str, Any] = {}
    ragged = bare = False
    for start, token in tokens:
        key, equals, value = token.partition("=")
        if equals and key in KEYS:
            changes |= _keyed(spec, start + len(key) + 1, key, value)
        elif token == "ragged":
            ragged = True
        elif token == "cast":
            bare = True
        elif token == "asym":
            changes |= {"format": _unsigned(spec, start, base.format), "scaling": minmax}
        elif BLOCK.fullmatch(token):
            changes["blocks"] = _blocks(spec, start, token)
        else:
            changes["scaling"] = _scaling(spec, start, token)
    if bare:
        return replace(base, **{**changes, "blocks": Blocks(None), "scaling": None, "scale_quantizer": None})
    if plain and ({"blocks", "scaling", "scale_quantizer"} & changes.keys()):
        changes = {"blocks": Blocks((0,)), "scaling": absmax, "scale_quantizer": cast(float16)} | changes
    scheme = replace(base, **changes)
    return replace(scheme, blocks=replace(scheme.blocks, ragged=True)) if ragged else scheme


def _keyed(spec: str, start: int, key: str, value: str) -> dict[str, Any]:
    if key in ("scale", "offset"):
        name = f"{key}_quantizer"
        if value == "float32":
            return {name: None}
        inner = value[1:-1] if value.startswith("(") and value.endswith(")") else value
        try:
            return {name: quantizer(inner)}
        except SpecError as error:
            raise _error(spec, start, str(error).partition("\n")[0]) from None
    if key == "center":
        if not BLOCK.fullmatch(value):
            raise _error(spec, start, f"center={value!r} is no block; try tensor or g256")
        return {"center": _blocks(spec, start, value)}
    if key == "overflow":
        if value not in ("saturate", "special"):
            raise _error(spec, start, f"overflow is saturate or special, not {value!r}")
        return {"overflow": value}
    entry = catalog.lookup("rounding", value)
    if entry is None:
        raise _error(spec, start, f"no rounding is called {value!r}{catalog.nearest(value, catalog.names('rounding'))}")
    return {"rounding": entry.thing}


def _blocks(spec: str, start: int, token: str) -> Blocks:
    match = BLOCK.fullmatch(token)
    assert match is not None
    try:
        if match["group"]:
            if int(match["group"]) == 0:
                raise _error(spec, start, "a group of 0; 'row' is one scale a row")
            return Blocks((int(match["group"]),))
        if match["flat"]:
            return Blocks(int(match["flat"]))
        if match["tile"]:
            return Blocks(tuple(int(n) for n in token.split("x")))
        return Blocks(None) if token == "tensor" else Blocks((0,))
    except SpecError:
        raise
    except LowbitError as error:
        raise _error(spec, start, str(error)) from None


def _unsigned(spec: str, start: int, fmt: Format) -> Format:
    if not fmt.name.startswith(("int", "uint")):
        raise _error(spec, start, f"asym is for integers (int4 asym), {fmt.name} is none")
    return catalog.find("format", "u" + fmt.name.removeprefix("u").partition("_")[0])  # type: ignore[no-any-return]


def _scaling(spec: str, start: int, token: str) -> Scaling:
    name, *arguments = token.split(":")
    entry = catalog.lookup("scaling", name)
    if entry is None:
        words = [*catalog.names("scaling"), "g64", "row", "tensor", "flat64", "ragged", "asym", "cast", *(f"{k}=" for k in KEYS)]
        raise _error(spec, start, f"{token!r} is no block, scale rule or key=value{catalog.nearest(name, words)}")
    if not isinstance(entry.thing, type):
        if arguments:
            raise _error(spec, start, f"{name} takes no parameters")
        return entry.thing  # type: ignore[no-any-return]
    known = [f.name for f in fields(entry.thing)]
    values: dict[str, float | int | str] = {}
    for i, argument in enumerate(arguments):
        key, equals, value = argument.partition("=")
        if not equals:
            if i >= len(known):
                raise _error(spec, start, f"{name} takes {len(known)} parameters ({', '.join(known) or 'none'})")
            key, value = known[i], argument
        if key not in known:
            raise _error(spec, start, f"{name} has no parameter {key!r}; it has {', '.join(known) or 'none'}")
        try:
            number = float(value)
        except ValueError:
            raise _error(spec, start, f"{name}:{key} needs a number, not {value!r}") from None
        values[key] = int(number) if number.is_integer() and "int" in str(entry.thing.__annotations__[key]) else number
    try:
        return entry.thing(**values)  # type: ignore[no-any-return]
    except LowbitError as error:
        raise _error(spec, start, str(error)) from None


def _error(spec: str, place: int, what: str) -> SpecError:
    return SpecError(f"{what}\n  {spec}\n  {' ' * place}^")


def text(value: Quantizer) -> str:
    """The plainest spec string that parses back to this quantizer: the shortest, where a head counts by the shortest of its names.

    ``mxfp4 g64 rceil`` is shorter than ``zeroquant_fp_m1 g64``, whose name says less to those who do not know the paper.

    Raises:
        SpecError: a part of it has no name (a table format that is not registered prints as its numbers).
    """
    for entry in catalog.entries("quantizer"):
        if entry.thing == value:
            return entry.name
    if isinstance(value, Best):
        return f"best({';'.join(map(text, value.options))})"
    if isinstance(value, Augmented):
        return f"augmented({text(value.quantizer)};{value.channels})"
    if not isinstance(value, Scheme):
        raise SpecError(f"{type(value).__name__} is not registered, so it has no spec string; register it as a quantizer")
    ways = [_from_format(value)]
    for entry in catalog.entries("quantizer"):
        if isinstance(entry.thing, Scheme) and entry.thing.format == value.format:
            words = _differences(entry.thing, value)
            if words is not None:
                ways.append(" ".join([entry.name, *words]))
    for way in sorted(ways, key=_length):
        if quantizer(way) == value:
            return way
    raise SpecError(f"no spec string gives back {value}; register its format")


def _length(words: str) -> tuple[int, int, str]:
    head, _, rest = words.partition(" ")
    entry = catalog.lookup("quantizer", head) or catalog.lookup("format", head)
    names = (head,) if entry is None else (entry.name, *entry.aliases)
    return min(map(len, names)) + len(rest), words.count(" "), words


def _format_text(fmt: Format) -> str:
    known = format_named(fmt.name)
    if known == fmt:
        return fmt.name
    if isinstance(fmt, TableFormat) and len(fmt.values) <= 256 and all(math.isfinite(v) for v in fmt.values):
        return _table_name(fmt.values)
    raise SpecError(f"format {fmt.name!r} is not registered, so it has no spec string; register it")


def _quantizer_text(value: Quantizer | None) -> str:
    if value is None:
        return "float32"
    words = text(value)
    return f"({words})" if " " in words else words


def _tail(value: Scheme, against: Scheme) -> list[str]:
    words = []
    if value.scale_quantizer != against.scale_quantizer:
        words.append(f"scale={_quantizer_text(value.scale_quantizer)}")
    if value.center is not None and value.center != against.center:
        words.append(f"center={value.center}")
    if value.offset_quantizer != against.offset_quantizer:
        words.append(f"offset={_quantizer_text(value.offset_quantizer)}")
    if value.rounding != against.rounding:
        words.append(f"round={value.rounding.name}")
    if value.overflow != against.overflow:
        words.append(f"overflow={value.overflow}")
    return words


def _from_format(value: Scheme) -> str:
    name = _format_text(value.format)
    plain = cast(value.format)
    if value.scaling is None:
        words = _tail(value, plain)
        head = [name] if catalog.lookup("quantizer", name) is None else [name, "cast"]
        return " ".join([*head, *words])
    default = replace(plain, scaling=absmax, scale_quantizer=cast(float16))
    rule = [] if value.scaling == absmax else [str(value.scaling)]
    return " ".join([name, str(value.blocks), *rule, *_tail(value, default)])


def _differences(base: Scheme, value: Scheme) -> list[str] | None:
    """The words that turn one scheme into another of the same format, or None where words cannot."""
    if (value.scaling is None) != (base.scaling is None) or (base.center is not None and value.center is None):
        return None
    words = [] if value.blocks == base.blocks else [str(value.blocks)]
    if value.scaling != base.scaling:
        words.append(str(value.scaling))
    return words + _tail(value, base)
