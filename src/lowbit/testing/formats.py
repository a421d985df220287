"""Checks that every number format must pass, a user's own included: ``check_format(fmt)``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lowbit import catalog
from lowbit.formats.format import Format, Overflow
from lowbit.philox import Key, noise
from lowbit.rounding.rounding import Rounding
from lowbit.testing.exact import DETERMINISTIC, ExactFormat
from lowbit.threads import one_thread


def all_codes(fmt: Format, limit: int = 1 << 16) -> Tensor:
    """Every code that decodes: 0 to the length of the table, or 2**bits."""
    count = len(fmt.values) if hasattr(fmt, "values") else 1 << fmt.bits
    if count > limit:
        raise AssertionError(f"{fmt.name}: {count} codes are too many to go through; the limit is {limit}")
    return torch.arange(count, dtype=torch.int32).to(torch.uint8 if fmt.bits <= 8 else torch.int32)


def tables_of(fmt: Format) -> list[Tensor | None]:
    """What to pass as ``table``: None, or one index for every alternative."""
    count = 1 + len(getattr(fmt, "alternatives", ()))
    return [None] if count == 1 else [torch.tensor(k) for k in range(count)]


def same_bits(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise: the same float32 bits, any NaN being equal to any NaN."""
    return (a.view(torch.int32) == b.view(torch.int32)) | (torch.isnan(a) & torch.isnan(b))


def probes(fmt: Format, table: Tensor | None = None, random: int = 256) -> Tensor:
    """float32 numbers where encoders go wrong: each number, each midpoint and their float32 neighbours on both sides,
    what lies beyond the ends, signed zeros, subnormals, Inf, NaN and random bit patterns."""
    numbers = fmt.decode(all_codes(fmt), table).double().numpy()
    numbers = np.unique(numbers[np.isfinite(numbers)])
    gaps = np.diff(numbers)
    wide = np.concatenate([[numbers[0] - gaps[0]], numbers, [numbers[-1] + gaps[-1]], [2 * numbers[0], 2 * numbers[-1]]])
    wide.sort()
    with np.errstate(over="ignore"):
        centres = np.concatenate([wide, (wide[1:] + wide[:-1]) / 2]).astype(np.float32)
        near = np.concatenate([centres, np.nextafter(centres, np.float32(np.inf)), np.nextafter(centres, np.float32(-np.inf))])
    words = noise(Key(0, fmt.name, "probes"), (random,)).numpy().astype(np.uint32)
    special = np.array([0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, math.inf, -math.inf, math.nan, -math.nan], dtype=np.float32)
    return torch.from_numpy(np.concatenate([near, special, words.view(np.float32)]))


def check_format(fmt: Format, per_check: int = 4096, dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64)) -> None:
    """Everything that a format owes its users; raises AssertionError with the first thing that is wrong.

    Args:
        per_check: at most so many numbers are compared with the exact encoder for each rounding and overflow.
        dtypes: what they are given in.
    """
    with one_thread():
        check_facts(fmt)
        for table in tables_of(fmt):
            check_round_trip(fmt, table)
            check_exact_numbers(fmt, table)
            check_written_answers(fmt, table)
            check_against_exact(fmt, table, per_check, dtypes)
        check_shapes(fmt)


def check_facts(fmt: Format) -> None:
    """max, min, min_positive, bits, levels and step_at_top are those of the decoded codes."""
    produced = _numbers(fmt)
    magnitudes = sorted({abs(v) for v in (produced if not getattr(fmt, "alternatives", ()) else _numbers(fmt, first=True))})
    facts = {
        "max": (fmt.max, max(produced)),
        "min": (fmt.min, min(produced)),
        "min_positive": (fmt.min_positive, min((v for v in produced if v > 0), default=math.inf)),
        "bits": (fmt.bits, max(1, (len(all_codes(fmt)) - 1).bit_length())),
        "levels": (fmt.levels, len(all_codes(fmt)) - len(getattr(fmt, "reserved", ()))),
        "step_at_top": (fmt.step_at_top, magnitudes[-1] - magnitudes[-2] if len(magnitudes) > 1 else magnitudes[-1]),
    }
    for name, (said, found) in facts.items():
        if said != found:
            raise AssertionError(f"{fmt.name}.{name} is {said}, its codes say {found}")
    if not 0 < fmt.top <= max(fmt.max, -fmt.min):
        raise AssertionError(f"{fmt.name}.top is {fmt.top}; it should be positive and at most {max(fmt.max, -fmt.min)}")
    if not fmt.identity.startswith(f"{fmt.name}:"):
        raise AssertionError(f"{fmt.name}.identity is {fmt.identity!r}; it should start with the name")


def _numbers(fmt: Format, first: bool = False) -> set[float]:
    """The finite numbers of codes that are produced."""
    codes = all_codes(fmt)
    kept = codes[[c not in getattr(fmt, "reserved", ()) for c in codes.tolist()]]
    tables = tables_of(fmt)
    return {v for t in (tables[:1] if first else tables) for v in fmt.decode(kept, t).tolist() if math.isfinite(v)}


def check_round_trip(fmt: Format, table: Tensor | None = None) -> None:
    """encode(decode(code)) is the same number, with the sign of zero and of NaN, and the same code where no other has the number."""
    codes = all_codes(fmt)
    numbers = fmt.decode(codes, table)
    kept = torch.tensor([c not in getattr(fmt, "reserved", ()) for c in codes.tolist()])
    back = fmt.encode(numbers, table=table, overflow="special")
    wrong = kept & ~same_bits(fmt.decode(back, table), numbers)
    if wrong.any():
        i = int(wrong.nonzero()[0])
        raise AssertionError(f"{fmt.name}: code {i} is {numbers[i]:g}, which is encoded as {int(back[i])} = {fmt.decode(back, table)[i]:g}")
    bits = numbers.view(torch.int32)
    single = kept & ~torch.isnan(numbers) & torch.tensor([int((bits[kept] == b).sum()) == 1 for b in bits] if len(bits) <= 4096 else True)
    if (single & (back != codes)).any():
        i = int((single & (back != codes)).nonzero()[0])
        raise AssertionError(f"{fmt.name}: code {i} comes back as {int(back[i])}")


def check_exact_numbers(fmt: Format, table: Tensor | None = None) -> None:
    """No rounding moves a number of the format, whatever the noise."""
    numbers = torch.tensor(sorted(_numbers(fmt) if table is None else _of_table(fmt, table)))
    for rounding in roundings():
        words = noise(Key(1, fmt.name), tuple(numbers.shape)) if rounding.noisy else None
        for overflow in ("saturate", "special"):
            moved = fmt.decode(fmt.encode(numbers, rounding, words, table, overflow), table) != numbers
            if moved.any():
                raise AssertionError(f"{fmt.name}: {rounding} moves {numbers[moved][0]:g}, which is a number of the format")


def _of_table(fmt: Format, table: Tensor) -> set[float]:
    return {v for v in fmt.decode(all_codes(fmt), table).tolist() if math.isfinite(v)}


def roundings() -> list[Rounding]:
    """Every registered rounding."""
    return [entry.thing for entry in catalog.entries("rounding")]


def check_written_answers(fmt: Format, table: Tensor | None = None) -> None:
    """NaN, Inf and signed zeros, as ``Format`` says."""
    line = _exact(fmt, table)
    for overflow in ("saturate", "special"):
        for y in (math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0):
            got = int(fmt.encode(torch.tensor([y]), table=table, overflow=overflow)[0])
            want = line.encode(y, "nearest_even", overflow)
            if got != want:
                raise AssertionError(f"{fmt.name}, overflow {overflow}: {y} is encoded as {got}, it should be {want}")


def check_against_exact(
    fmt: Format, table: Tensor | None = None, count: int = 4096, dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64)
) -> None:
    """Every rounding that depends on the number alone, both overflows, against rational arithmetic."""
    line = _exact(fmt, table)
    y = probes(fmt, table)
    if len(y) > count:
        y = y[noise(Key(2, fmt.name), (count,)) % len(y)]
    modes: tuple[Overflow, ...] = ("saturate", "special")
    for rounding in roundings():
        if rounding.name not in DETERMINISTIC:
            continue
        for overflow in modes:
            want = torch.tensor([line.encode(v, rounding.name, overflow) for v in y.tolist()])
            for dtype in dtypes:
                got = fmt.encode(y.to(dtype), rounding, None, table, overflow)
                wrong = got.long() != want
                if wrong.any():
                    i = int(wrong.nonzero()[0])
                    where = f"{fmt.name}, {rounding}, {overflow}, {dtype}"
                    raise AssertionError(f"{where}: {y[i].item()!r} is encoded as {int(got[i])}, exactly it is {int(want[i])}")


def _exact(fmt: Format, table: Tensor | None) -> ExactFormat:
    return ExactFormat(
        fmt.decode(all_codes(fmt), table).tolist(),
        odd=getattr(fmt, "odd", None),
        reserved=getattr(fmt, "reserved", frozenset()),
        middle=getattr(fmt, "middle", None),
        next=getattr(fmt, "after", None),
        never_overflows=getattr(fmt, "never_overflows", False),
    )


def check_shapes(fmt: Format) -> None:
    """Any shape and stride; uint8 up to 8 bits, int32 above; half precision is encoded as float32."""
    x = torch.linspace(fmt.min, fmt.max, 24, dtype=torch.float64).float().reshape(4, 6)
    kind = torch.uint8 if fmt.bits <= 8 else torch.int32
    whole = fmt.encode(x)
    if whole.dtype != kind or whole.shape != x.shape:
        raise AssertionError(
            f"{fmt.name}: codes of shape (4, 6) are {whole.dtype} of {tuple(whole.shape)}, they should be {kind} of (4, 6)"
        )
    if not torch.equal(fmt.encode(x.mT), whole.mT) or not torch.equal(fmt.decode(whole.mT), fmt.decode(whole).mT):
        raise AssertionError(f"{fmt.name}: a transposed tensor gets other codes or numbers")
    for shape in ((), (0,), (3, 0)):
        empty = fmt.encode(torch.zeros(shape))
        if tuple(empty.shape) != shape or tuple(fmt.decode(empty).shape) != shape:
            raise AssertionError(f"{fmt.name}: a tensor of shape {shape} comes back as {tuple(empty.shape)}")
    half = x.clamp(-60000, 60000).half()
    if not torch.equal(fmt.encode(half), fmt.encode(half.float())):
        raise AssertionError(f"{fmt.name}: float16 input gets other codes than the same numbers in float32")
    if fmt.decode(whole).dtype != torch.float32:
        raise AssertionError(f"{fmt.name}: decode gives {fmt.decode(whole).dtype}, it should give float32")
