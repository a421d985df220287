"""The assembly that decodes codes, run line by line by a small reader of PTX, against the table."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from lowbit.kernels.triton.decoding import E2M1, MANTISSAS, PIECES, SELECTORS, assembly, kind_of, places

MASK = 0xFFFFFFFF


def run(text: str, words: tuple[int, int], count: int) -> list[int]:
    """The registers $0 .. $(count - 1) after a text whose two inputs follow them."""
    registers: dict[str, int] = {f"${count + i}": word for i, word in enumerate(words)}

    def read(name: str) -> int:
        return int(name, 16) if name.startswith("0x") else int(name) if name.isdigit() else registers[name]

    def halves(name: str, dtype: torch.dtype) -> Tensor:
        bits = read(name)
        return torch.tensor([bits & 0xFFFF, bits >> 16], dtype=torch.int32).to(torch.int16).view(dtype)

    for line in (part.strip() for part in re.split(r"[;\n]", text)):
        if not line or line in "{}" or line.startswith(".reg"):
            continue
        name, rest = line.split(None, 1)
        to, *given = [part.strip() for part in rest.split(",")]
        kind = name.split(".")[0]
        if kind in ("add", "sub", "mul"):
            dtype = torch.bfloat16 if "bf16" in name else torch.float16
            a, b = halves(given[0], dtype), halves(given[1], dtype)
            value = {"add": a + b, "sub": a - b, "mul": (a.double() * b.double()).to(dtype)}[kind].view(torch.int16).int() & 0xFFFF
            registers[to] = int(value[0]) | int(value[1]) << 16
            continue
        x = [read(part) for part in given]
        if kind == "lop3":
            registers[to] = sum(((x[3] >> ((x[0] >> i & 1) << 2 | (x[1] >> i & 1) << 1 | (x[2] >> i & 1))) & 1) << i for i in range(32))
        elif kind == "prmt":
            source = (x[1] << 32 | x[0]).to_bytes(8, "little")
            picks = [x[2] >> (4 * i) & 15 for i in range(4)]
            found = [(255 if source[p & 7] & 128 else 0) if p & 8 else source[p & 7] for p in picks]
            registers[to] = int.from_bytes(bytes(found), "little")
        else:
            operation = {"mov": lambda a: a, "shr": lambda a, b: a >> b, "shl": lambda a, b: a << b, "and": lambda a, b: a & b}
            operation["xor"] = lambda a, b: a ^ b
            registers[to] = operation[kind](*x) & MASK
    return [registers[f"${i}"] for i in range(count)]


def minifloat(exponent: int, mantissa: int) -> tuple[float, ...]:
    """All numbers of 8 bits, none of them special, by the definition."""
    bias = (1 << (exponent - 1)) - 1
    found = []
    for code in range(256):
        e, f = (code & 127) >> mantissa, (code & ((1 << mantissa) - 1)) / 2**mantissa
        found.append((-1 if code & 128 else 1) * ((1 + f) * 2.0 ** (e - bias) if e else f * 2.0 ** (1 - bias)))
    return tuple(found)


TABLES = {
    "int4": (4, tuple(float(k - 8) for k in range(16)), MANTISSAS),
    "uint4": (4, tuple(float(k) for k in range(16)), MANTISSAS),
    "e2m1": (4, E2M1, PIECES),
    "any": (4, tuple((k * k - 37.0) / 16 for k in range(16)), SELECTORS),
    "int8": (8, tuple(float(k - 128) for k in range(256)), MANTISSAS),
    "uint8": (8, tuple(float(k) for k in range(256)), MANTISSAS),
    "e4m3": (8, minifloat(4, 3), MANTISSAS),
    "e5m2": (8, minifloat(5, 2), MANTISSAS),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", TABLES)
def test_every_register_holds_the_numbers_of_its_codes(name: str, dtype: torch.dtype) -> None:
    bits, numbers, kind = TABLES[name]
    assert kind_of(numbers, bits) == kind
    text = assembly(numbers, bits, dtype)
    if text is None:
        assert (name, dtype) in {("int8", torch.float16), ("uint8", torch.float16)}
        return
    per_word = 32 // bits // 2
    table = torch.tensor(numbers).to(dtype)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        codes = torch.randint(0, 1 << bits, (2, per_word, 2), generator=generator)
        codes = torch.where(table[codes].isfinite(), codes, 0)
        words = [0, 0]
        for word in range(2):
            for i, pair in enumerate(places(bits, kind)):
                for p, ats in enumerate(pair):
                    for k, at in enumerate(ats):
                        words[word] |= (int(codes[word, i, p]) >> k & 1) << at
        found = run(text, (words[0], words[1]), 2 * per_word)
        for j, register in enumerate(found):
            got = torch.tensor([register & 0xFFFF, register >> 16], dtype=torch.int32).to(torch.int16).view(dtype)
            assert torch.equal(got, table[codes[j // per_word, j % per_word]]), (j, got, codes[j // per_word, j % per_word])


def test_a_table_of_8_bits_that_no_formula_has_is_refused() -> None:
    assert assembly(tuple((k - 100.0) ** 3 for k in range(256)), 8, torch.bfloat16) is None


@pytest.mark.parametrize("kind", [MANTISSAS, SELECTORS, PIECES])
def test_no_two_bits_share_a_place(kind: int) -> None:
    taken = [at for pair in places(4, kind) for ats in pair for at in ats]
    assert sorted(taken) == list(range(32))
