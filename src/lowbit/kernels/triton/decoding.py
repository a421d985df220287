"""How packed codes become bfloat16 or float16 numbers in registers: text in PTX, written for one table and one dtype.

Two words go in, registers of two numbers each come out, in the order that ``linear_layout`` lays codes out for. A word of 4-bit codes
holds those of the two halves of registers 0 to 3, a word of 8-bit codes those of register 0 in bytes 1 and 3 and those of register 1 in
bytes 0 and 2; ``places`` says which bit goes where.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

#: the exponent bits of one in the dtype, bits of its mantissa
ONE = {torch.bfloat16: (127, 7), torch.float16: (15, 10)}


#: ways of laying 4-bit codes into a word: those of a half 4 bits apart, as mantissas; one after the other, as selectors of bytes; and
#: in pieces that come to the places of a sign, two bits of an exponent and one of a mantissa with few shifts
MANTISSAS, SELECTORS, PIECES = range(3)

#: e2m1: bits of a half where those of a code begin, lowest first
E2M1_PLACES = ((6, 7, 8, 15), (3, 4, 5, 12), (0, 1, 2, 9), (10, 11, 13, 14))
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def kind_of(numbers: tuple[float, ...], bits: int) -> int:
    """How codes of a table are laid into words."""
    if bits == 8 or integers(torch.tensor(numbers)) is not None:
        return MANTISSAS
    return PIECES if numbers == E2M1 else SELECTORS


def places(bits: int, kind: int) -> list[list[tuple[int, ...]]]:
    """Of a word: for each register and half the bits of a code, lowest first."""
    if bits == 8:
        return [[tuple(range(at, at + 8)) for at in pair] for pair in ((8, 24), (0, 16))]
    if kind == PIECES:
        return [[tuple(16 * p + at for at in one) for p in range(2)] for one in E2M1_PLACES]
    starts = [[4 * i + 16 * p if kind == MANTISSAS else 8 * i + 4 * p for p in range(2)] for i in range(4)]
    return [[tuple(range(at, at + 4)) for at in pair] for pair in starts]


def integers(table: Tensor) -> int | None:
    """What has to be subtracted from codes to have the numbers, None where they are not consecutive integers in order of the codes."""
    zero = -float(table[0])
    known = zero == round(zero) and 0 <= zero <= 128
    return int(zero) if known and torch.equal(table, torch.arange(len(table)) - zero) else None


def recoded(table: Tensor, bits: int) -> Tensor:
    """The stored code of each code: integers from the smallest on, so that no look-up is needed; else the code itself."""
    same = torch.arange(len(table), dtype=torch.uint8)
    order = table.argsort()
    return same if integers(table[order]) is None or len(table.unique()) < len(table) else order.argsort().to(torch.uint8)


@lru_cache(maxsize=256)
def assembly(numbers: tuple[float, ...], bits: int, dtype: torch.dtype) -> str | None:
    """The text for a table by stored codes of 4 or 8 bits; None where there is none. Numbers that are not finite are not to be met.

    Those of a look-up are rounded to the dtype; integers and minifloats are exact.
    """
    table = torch.tensor(numbers, dtype=torch.float32)
    zero = integers(table)
    if bits == 4:
        if kind_of(numbers, bits) == PIECES:
            return _pieces4(dtype)
        return _whole4(zero, dtype) if zero is not None else _table4(table, dtype)
    if zero is not None:
        return _whole8(zero) if dtype == torch.bfloat16 else None
    return _minifloat8(table, dtype)


def _text(lines: list[str]) -> str:
    return "{\n" + "\n".join(lines) + "\n}"


def _suffix(dtype: torch.dtype) -> str:
    return "bf16x2" if dtype == torch.bfloat16 else "f16x2"


def _pair(half: int) -> str:
    return f"0x{half & 0xFFFF:04X}{half & 0xFFFF:04X}"


def _half(value: float, dtype: torch.dtype) -> int:
    return int(torch.tensor(value).to(dtype).view(torch.int16)) & 0xFFFF


def _whole4(zero: int, dtype: torch.dtype) -> str:
    """The code in the mantissa of a power of two, which is then subtracted."""
    power = 128.0 if dtype == torch.bfloat16 else 1024.0
    lines = [".reg .b32 t, m;", f"mov.b32 m, {_pair(_half(-power - zero, dtype))};"]
    for word in range(2):
        for i in range(4):
            source = f"${8 + word}"
            if i:
                lines.append(f"shr.b32 t, {source}, {4 * i};")
            out = f"${4 * word + i}"
            lines.append(f"lop3.b32 {out}, {'t' if i else source}, 0x000F000F, {_pair(_half(power, dtype))}, 0xEA;")
            lines.append(f"add.rn.{_suffix(dtype)} {out}, {out}, m;")
    return _text(lines)


def _pieces4(dtype: torch.dtype) -> str:
    """e2m1: the pieces make a number of bfloat16, far too small, and a product corrects that."""
    one, digits = ONE[dtype]
    power = 2.0 ** (one - 1)
    lines = [".reg .b32 t, u, m;", f"mov.b32 m, {_pair(_half(power, dtype))};"]
    for word in range(2):
        source = f"${8 + word}"
        for i in range(4):
            out = f"${4 * word + i}"
            if i < 3:
                lines += [f"shl.b32 t, {source}, {3 * i};", f"and.b32 {out}, t, 0x81C081C0;"]
            else:
                lines += [f"shr.b32 t, {source}, 4;", f"and.b32 {out}, t, 0x00C000C0;"]
                lines += [f"shl.b32 t, {source}, 1;", f"lop3.b32 {out}, t, 0x80008000, {out}, 0xEA;"]
                lines += [f"shr.b32 t, {source}, 5;", f"lop3.b32 {out}, t, 0x01000100, {out}, 0xEA;"]
            if digits > 7:
                lines += [f"and.b32 t, {out}, 0x01C001C0;", f"shl.b32 t, t, {digits - 7};", f"lop3.b32 {out}, {out}, 0x80008000, t, 0xEA;"]
            lines.append(f"mul.rn.{_suffix(dtype)} {out}, {out}, m;")
    return _text(lines)


def _table4(table: Tensor, dtype: torch.dtype) -> str:
    """Bytes of 16 numbers are picked out of four registers, lower and upper ones."""
    full = torch.zeros(16)
    full[: len(table)] = table
    halves = full.to(dtype).view(torch.int16).int() & 0xFFFF
    lines = [".reg .b32 s, u, a, b, m, l, h;", ".reg .b32 t<8>;"]
    for k in range(8):
        part, first = (halves & 0xFF, 4 * k) if k < 4 else (halves >> 8, 4 * k - 16)
        lines.append(f"mov.b32 t{k}, 0x{sum(int(part[first + i]) << (8 * i) for i in range(4)):08X};")
    for word in range(2):
        lines += [f"and.b32 s, ${8 + word}, 0x77777777;", f"shl.b32 a, ${8 + word}, 4;"]
        for high in range(2):  # the codes of registers 0 and 1, then of 2 and 3
            if high:
                lines.append("shr.b32 s, s, 16;")
            lines += [
                f"prmt.b32 m, a, ${8 + word}, {'0xFBEA' if high else '0xD9C8'};",
                "prmt.b32 u, t0, t1, s;", "prmt.b32 b, t2, t3, s;", "lop3.b32 l, m, b, u, 0xCA;",
                "prmt.b32 u, t4, t5, s;", "prmt.b32 b, t6, t7, s;", "lop3.b32 h, m, b, u, 0xCA;",
            ]  # fmt: skip
            lines += [f"prmt.b32 ${4 * word + 2 * high + i}, l, h, {'0x7362' if i else '0x5140'};" for i in range(2)]
    return _text(lines)


def _whole8(zero: int) -> str:
    """128 + its lower seven bits, less 128 or nothing, less the zero: all of them numbers of bfloat16."""
    lines = [".reg .b32 t, a, b, m;", f"mov.b32 m, {_pair(_half(float(128 - zero), torch.bfloat16))};"]
    for word in range(2):
        for i in range(2):
            source = f"${4 + word}"
            if not i:
                lines.append(f"shr.b32 t, {source}, 8;")
            out = f"${2 * word + i}"
            lines += [
                f"lop3.b32 a, {source if i else 't'}, 0x007F007F, 0x43004300, 0xEA;",
                f"lop3.b32 b, {source if i else 't'}, 0x00800080, 0x43004300, 0xEA;",
                "xor.b32 b, b, 0x00800080;",  # 256 where the upper bit is clear
                f"sub.rn.bf16x2 {out}, a, b;", f"add.rn.bf16x2 {out}, {out}, m;",
            ]  # fmt: skip
    return _text(lines)


def _minifloat8(table: Tensor, dtype: torch.dtype) -> str | None:
    """Sign, exponent and mantissa are moved to their places, and a product corrects the bias."""
    one, digits = ONE[dtype]
    for mantissa in range(1, 7):
        code = torch.arange(len(table))
        exponent, fraction = (code & 127) >> mantissa, code & ((1 << mantissa) - 1)
        top = float(table[1 << mantissa]) if len(table) > 1 << mantissa else 0.0  # 2 ** (1 - bias)
        if top <= 0 or torch.frexp(torch.tensor(top))[0] != 0.5:
            continue
        magnitude = torch.where(
            exponent == 0, fraction / 2.0**mantissa, (1 + fraction / 2.0**mantissa) * torch.exp2((exponent - 1).double())
        )
        expected = (magnitude * top * torch.where(code >= 128, -1.0, 1.0)).float()
        power = int(torch.frexp(torch.tensor(top))[1]) - 1 + one - 1
        finite = table.isfinite()
        fits = power <= one and (dtype == torch.bfloat16 or mantissa >= 2)
        if fits and torch.equal(expected[finite], table[finite]):
            return _moved(mantissa, digits, power, dtype)
    return None


def _moved(mantissa: int, digits: int, power: int, dtype: torch.dtype) -> str:
    down = 8 + mantissa - digits  # of a byte in the upper half of a half
    lines = [".reg .b32 t, u, m;", f"mov.b32 m, {_pair(_half(2.0**power, dtype))};"]
    mask = _pair((0x7F00 >> down) if down >= 0 else (0x7F00 << -down))
    for word in range(2):
        for i in range(2):
            source = f"${4 + word}"
            shift = down - 8 * i
            moved = f"shr.b32 t, {source}, {shift};" if shift > 0 else f"shl.b32 t, {source}, {-shift};"
            signs = source
            lines.append(moved)
            lines.append(f"and.b32 t, t, {mask};")
            if i:
                lines.append(f"shl.b32 u, {source}, 8;")
                signs = "u"
            out = f"${2 * word + i}"
            lines += [f"lop3.b32 t, {signs}, 0x80008000, t, 0xEA;", f"mul.rn.{_suffix(dtype)} {out}, t, m;"]
    return _text(lines)
