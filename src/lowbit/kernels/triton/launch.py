"""How tensors are handed to the kernels of ``blocks.py``: what they refuse, how programs share the work, what is launched."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.kernels.cpu.call import NO_UNITS as NO_UNITS
from lowbit.kernels.cpu.call import TYPES, Noise
from lowbit.kernels.grid_spec import Candidate, GridSpec, Layout, Numbers, ScaleRule, Units, layout
from lowbit.kernels.op import interpreted
from lowbit.kernels.triton import blocks as kernels
from lowbit.kernels.triton.codec import Way, codec, codecs

#: rules by the numbers that ``blocks.py`` knows them by
RULES = {
    name: int(getattr(kernels, constant).value)
    for name, constant in (
        ("given", "GIVEN"), ("absmax", "ABSMAX"), ("power_of_two", "POWER_OF_TWO"), ("minmax", "MINMAX"), ("sign_split", "SIGN_SPLIT"),
        ("extremes", "EXTREMES"), ("none", "NO_RULE"),
    )
}  # fmt: skip
FINDING = tuple(kind for kind in RULES if kind not in ("given", "none"))
PHILOX, WORDS = 1, 2

#: numbers of a program, and of a block that one program can hold
TILE, LONGEST = 4096, 16384

#: numbers of a piece, as ``scaling.fixed_sum`` takes them
PIECE = 1024

#: the scales of a block are its largest magnitude
LARGEST = ScaleRule("absmax")

GIVEN = None

#: of a kernel that rounds nothing
NOTHING = Way(0, 0)

#: float operations are rounded one by one, as the definitions say
EXACT = {"enable_fp_fusion": False}


def unfit(x: Tensor, what: str = "x") -> str | None:
    """Why numbers cannot be handed over."""
    reason = elsewhere(x, what)
    if reason is None and x.dtype not in TYPES:
        reason = f"{x.dtype} is not float32, bfloat16 or float16"
    if reason is None and x.requires_grad and torch.is_grad_enabled():
        reason = "a gradient is wanted, which the kernel does not compute"
    return reason


def elsewhere(x: Tensor, what: str) -> str | None:
    """Why a tensor is not where kernels read it."""
    wanted = "cpu" if interpreted() else "cuda"
    if type(x) not in (Tensor, torch.nn.Parameter) or x.layout != torch.strided:
        return f"{what} is a {type(x).__name__}, not a plain tensor"
    return None if x.device.type == wanted else f"{what} is on {x.device}, not on a CUDA device"


def unfit_units(units: Units | str, blocks: Blocks, x: Tensor, *, differentiable: bool) -> str | None:
    """Why the values of blocks cannot be handed over."""
    if isinstance(units, str):
        return units
    if layout(blocks, x.shape) is None:
        return f"blocks {blocks} of a tensor of shape {tuple(x.shape)} are not blocks of rows and columns"
    counts = blocks.counts(x.shape)
    for name, values in units._asdict().items():
        if values is None:
            continue
        if values.dtype != torch.float32 or values.device != x.device or tuple(values.shape) != counts:
            return f"{name} is {values.dtype} of {tuple(values.shape)} on {values.device}, not float32 of {counts} on {x.device}"
        if differentiable and values.requires_grad and torch.is_grad_enabled():
            return f"a gradient for {name} is wanted, which the kernel does not compute"
    return None


class Plan(NamedTuple):
    """How programs share the blocks of a tensor: the arguments of ``blocks.places`` and the grid."""

    blocks: int
    per_row: int
    columns: int
    rows: int
    strips: int
    width: int
    chunks: int
    shape: dict[str, int | bool]
    programs: int
    warps: int


@lru_cache(maxsize=4096)
def plan(where: Layout, *, whole: bool, tile: int = TILE) -> Plan:
    """The plan for a layout.

    Args:
        whole: a program sees whole blocks; without it a long block is cut into pieces.
    """
    high, wide = min(where.block_rows, where.rows), min(where.block_columns, where.columns)
    even = high == 1 and where.columns % wide == 0
    per_row, strips = -(-where.columns // wide), -(-where.rows // high)
    blocks = where.batch * strips * per_row
    padded_width = _power(wide)
    padded = padded_width * _power(high)
    long = padded > (LONGEST if whole else tile)
    size = tile if long else padded
    chunks = -(-padded // size) if not even else -(-wide // size)
    held = 1 if long else max(1, tile // padded)
    shape = {
        "EVEN": even, "LONG": long, "HEIGHT": high, "WIDTH": 0 if long or not even else wide,
        "PADDED_WIDTH": padded_width if not even else 1, "PADDED": size, "BLOCKS": held,
    }  # fmt: skip
    programs = chunks * (blocks if long else -(-blocks // held))
    warps = max(1, min(16, size * held // 1024))
    return Plan(blocks, per_row, where.columns, where.rows, strips, wide, chunks, shape, programs, warps)


def on(device: torch.device) -> AbstractContextManager[object]:
    """Launches inside go to this device."""
    return torch.cuda.device(device) if device.type == "cuda" and device.index != torch.cuda.current_device() else nullcontext()


def _power(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


@lru_cache(maxsize=1024)
def _rule_words(rule: ScaleRule, device: torch.device) -> Tensor:
    floats = np.array([rule.high - rule.low, rule.low, rule.high], dtype=np.float32).view(np.int32)
    return torch.from_numpy(np.concatenate([floats, np.array([rule.top_exponent, rule.threshold], dtype=np.int32)])).to(device)


@lru_cache(maxsize=1024)
def _floats(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(torch.int32).to(device)


@lru_cache(maxsize=1024)
def powers(numbers: Numbers | None) -> bool:
    """Whether everything but zero and NaN is a power of two from 2**-127 on."""
    if numbers is None:
        return False
    found = numbers.decoded[numbers.codes].double().abs()
    found = found[found != 0]
    return bool((torch.frexp(found)[0] == 0.5).all() and (found >= 2.0**-127).all() and found.isfinite().all())


@lru_cache(maxsize=1024)
def keeps_powers(numbers: Numbers) -> bool:
    """Whether 2**-127 to 2**127 and NaN are stored as they are."""
    exponents = torch.arange(-127, 128, dtype=torch.float64)
    return numbers.nan is not None and bool(torch.isin(torch.exp2(exponents), numbers.decoded[numbers.codes].double()).all())


@lru_cache(maxsize=1024)
def coarse(numbers: Numbers) -> bool:
    """Whether quotients below 2**-40 all round to zero, so that their last bits do not matter."""
    cuts = numbers.cuts[numbers.cuts != 0].abs()
    return not numbers.stochastic and bool((cuts > 2.0**-40).all() and (cuts < 2.0**60).all())


def run(
    x: Tensor,
    numbers: Numbers | None,
    where: Layout,
    rule: ScaleRule | None,
    *,
    scale: Numbers | None = None,
    scale_unit: Tensor | None = None,
    units: Units = NO_UNITS,
    out: Tensor | None = None,
    codes: Tensor | None = None,
    scale_out: Tensor | None = None,
    second_out: Tensor | None = None,
    candidates: tuple[Candidate, ...] = (),
    chosen: Tensor | None = None,
    noise: Noise = None,
    found: bool = False,
) -> None:
    """One launch of ``blocks.emulate``; all tensors are contiguous and lie on one device.

    Args:
        rule: how scales are found; None: they are given as ``units``.
        scale: the cast by which found scales are stored.
        scale_unit: one number, of which stored scales are multiples.
        second_out: zero points, scales of negative numbers, or smallest numbers.
        chosen: uint8, which candidate each block keeps.
        noise: words (int64, one an element) or the two words of a Philox key.
        found: the scales that are given are those that a rule finds, NaN where a number of the block is not finite.
    """
    kind = "given" if rule is None else rule.kind
    if kind == "none":
        where = Layout(1, 1, x.numel(), 1, x.numel())
    measured = kind not in ("given", "none")
    p = plan(where, whole=measured)
    if measured and p.shape["LONG"]:
        assert rule is not None
        _run_long(x, numbers, where, rule, scale, scale_unit, out, codes, scale_out, second_out, noise)
        return
    _launch(x, numbers, p, kind, rule, scale, scale_unit, units, out, codes, scale_out, second_out, candidates, chosen, noise, found)


def _run_long(
    x: Tensor, numbers: Numbers | None, where: Layout, rule: ScaleRule, scale: Numbers | None, scale_unit: Tensor | None,
    out: Tensor | None, codes: Tensor | None, scale_out: Tensor | None, second_out: Tensor | None, noise: Noise,
) -> None:  # fmt: skip
    """Blocks that many programs share: measured in pieces, then in the pieces' results, then rounded."""
    p = plan(where, whole=False)
    blocks = p.blocks
    ranged = rule.kind in ("minmax", "sign_split", "extremes")
    parts = torch.empty((2 if ranged else 1, blocks, p.chunks), device=x.device)
    found = [torch.empty(blocks, device=x.device) if given is None else given for given in (scale_out, second_out)]
    kind, first = ("extremes", ScaleRule("extremes")) if ranged else ("absmax", LARGEST)
    _launch(x, None, p, kind, first, None, None, NO_UNITS, None, None, parts[0], parts[1] if ranged else None, (), None, None)
    pieces = parts.transpose(0, 1).contiguous()
    count = pieces.numel() // blocks
    run(pieces, None, Layout(1, blocks, count, 1, count), rule, scale_out=found[0], second_out=found[1] if ranged else None)
    if out is None and codes is None:
        return
    stored = [as_stored(s.reshape(-1), scale, scale_unit) for s in found[: 2 if rule.kind == "sign_split" else 1]]
    zero, negative = found[1] if rule.kind == "minmax" else None, stored[1] if rule.kind == "sign_split" else None
    run(x, numbers, where, GIVEN, units=Units(stored[0], zero, None, negative), out=out, codes=codes, noise=noise, found=True)


def as_stored(scale: Tensor, numbers: Numbers | None, unit: Tensor | None) -> Tensor:
    """Scales after their cast."""
    if numbers is None:
        return scale
    stored, n = torch.empty_like(scale), scale.numel()
    run(scale, numbers, Layout(1, 1, n, 1, n), GIVEN, units=Units(unit), out=stored)
    return stored


def _launch(
    x: Tensor, numbers: Numbers | None, p: Plan, kind: str, rule: ScaleRule | None, scale: Numbers | None, scale_unit: Tensor | None,
    units: Units, out: Tensor | None, codes: Tensor | None, scale_out: Tensor | None, second_out: Tensor | None,
    candidates: tuple[Candidate, ...], chosen: Tensor | None, noise: Noise, found: bool = False,
) -> None:  # fmt: skip
    device = x.device
    starts, tables = x, False
    if candidates:
        several = codecs(tuple(c.numbers for c in candidates), device)
        assert not isinstance(several, str)
        words, starts, way = several
        tables = len({c.numbers for c in candidates}) > 1
        tops, shares = (_floats(tuple(getattr(c, name) for c in candidates), device) for name in ("top", "share"))
    else:
        words, way = (x, NOTHING) if numbers is None else codec(numbers, device)
        tops = shares = x
    stored = None if scale is None else codec(scale, device)
    kept_way = NOTHING._replace(value=-1) if stored is None else stored.way
    if scale is not None and kind == "power_of_two" and scale_unit is None and keeps_powers(scale):
        kept_way = kept_way._replace(value=-2)
    key = tuple((k & 0xFFFFFFFF) - ((k & 0x80000000) << 1) for k in noise) if isinstance(noise, tuple) else (0, 0)
    kept = x if not isinstance(noise, Tensor) else noise.to(torch.int64).contiguous()
    kind_of_noise = 0 if noise is None else WORDS if isinstance(noise, Tensor) else PHILOX
    given = [None if u is None else u.contiguous() for u in units]
    finds = kind not in ("given", "none") or found
    shape = p.shape
    quick = finds and not interpreted() and all(coarse(n) for n in (numbers, *(c.numbers for c in candidates)) if n is not None)
    exact_powers = scale_unit is None and (kind == "power_of_two" if scale is None else finds and powers(scale))
    fours = shape["EVEN"] and shape["PADDED"] % 4 == 0 and p.width % 4 == 0
    with on(device):
        kernels.emulate[(p.programs,)](
            x, *(x if t is None else t for t in (out, codes, scale_out, second_out, chosen)), kept,
            words, words if stored is None else stored.words, x if scale_unit is None else scale_unit,
            *(x if u is None else u for u in given), starts, _floats((1.0 if rule is None else rule.top,), device), tops, shares,
            p.blocks, p.per_row, p.columns, p.rows, p.strips, p.width, p.chunks, *key, x if rule is None else _rule_words(rule, device),
            RULE=RULES[kind], VALUE=way.value, CODE=way.code, STEPS=way.steps, STOCHASTIC=way.stochastic, OVERFLOWS=way.overflows,
            SIGNED_ZERO=way.signed_zero, STORED=kept_way.value, STORED_STEPS=kept_way.steps, STORED_OVERFLOWS=kept_way.overflows,
            STORED_SIGNED_ZERO=kept_way.signed_zero,
            UNDER=scale_unit is not None, POWERS=exact_powers, QUICK=quick, NANS=0 if finds else 1 + way.nan_signs,
            SCALE=kind in FINDING or given[0] is not None, ZERO=kind == "minmax" or given[1] is not None, OFFSET=given[2] is not None,
            NEGATIVE=kind == "sign_split" or given[3] is not None, INVERSE=given[4] is not None,
            OUT=out is not None, CODES=codes is not None, SCALE_OUT=scale_out is not None, SECOND_OUT=second_out is not None,
            CANDIDATES=len(candidates), NOISE=kind_of_noise, QUADS=fours and kind_of_noise == PHILOX, TABLES=tables, **shape,
            num_warps=p.warps, **EXACT,
        )  # fmt: skip


def piece_sums(x: Tensor, where: Layout) -> Tensor:
    """Sums of magnitudes of the pieces of each block.

    Shapes:
        result  (blocks, pieces) float64
    """
    per_row = -(-where.columns // where.block_columns)
    size = min(PIECE, _power(where.block_columns))
    per_block = -(-where.block_columns // size)
    blocks = where.batch * where.rows * per_row
    sums, held = torch.empty((blocks, per_block), dtype=torch.float64, device=x.device), max(1, TILE // size)
    with on(x.device):
        kernels.piece_sums[(-(-sums.numel() // held),)](
            x, sums, sums.numel(), where.block_columns, where.columns, per_block, PADDED=size, PIECES=held, **EXACT
        )
    return sums


def folded(sums: Tensor) -> Tensor:
    """Sums of the sums of up to PIECE pieces each: (blocks, n) to (blocks, ceil(n / PIECE)) float64."""
    blocks, n = sums.shape
    size = min(PIECE, _power(n))
    out, held = torch.empty((blocks, -(-n // size)), dtype=torch.float64, device=sums.device), max(1, TILE // size)
    with on(sums.device):
        kernels.sums_of_sums[(-(-out.numel() // held),)](sums, out, out.numel(), n, out.shape[1], PADDED=size, PIECES=held, **EXACT)
    return out


def run_hifloat4(x: Tensor, spec: GridSpec, out: Tensor) -> None:
    """Blocks of 64 numbers with scales of three levels."""
    assert isinstance(spec.scale, Numbers)
    (words, way), (stored, kept) = codec(spec.numbers, x.device), codec(spec.scale, x.device)
    blocks, held = x.numel() // 64, TILE // 64
    with on(x.device):
        kernels.hifloat4[(-(-blocks // held),)](
            x, out, words, stored, blocks, _floats((spec.rule.top,), x.device), VALUE=way.value, STEPS=way.steps,
            SIGNED_ZERO=way.signed_zero, STORED=kept.value, STORED_STEPS=kept.steps, STORED_OVERFLOWS=kept.overflows,
            STORED_SIGNED_ZERO=kept.signed_zero, NANS=1 + way.nan_signs, BLOCKS=held, **EXACT,
        )  # fmt: skip


def run_decode(codes: Tensor, decoded: Tensor, where: Layout, units: Units, out: Tensor) -> None:
    """Codes to numbers."""
    p, table = plan(where, whole=False), _on(decoded, codes.device)
    given = [None if u is None else u.contiguous() for u in units]
    with on(codes.device):
        kernels.decode[(p.programs,)](
            codes, out, table, *(table if u is None else u for u in given[:4]), len(decoded), p.blocks, p.per_row, p.columns, p.rows,
            p.strips, p.width, p.chunks, SCALE=given[0] is not None, ZERO=given[1] is not None, OFFSET=given[2] is not None,
            NEGATIVE=given[3] is not None, **p.shape, num_warps=p.warps, **EXACT,
        )  # fmt: skip


@lru_cache(maxsize=1024)
def _on(table: Tensor, device: torch.device) -> Tensor:
    return table.to(device).contiguous()


def flat(x: Tensor) -> Layout:
    """A tensor as one block."""
    return Layout(1, 1, x.numel(), 1, x.numel())


def empty_codes(numbers: Numbers, x: Tensor) -> Tensor:
    """Room for the codes of x: uint8 up to 8 bits, int32 above."""
    return torch.empty(x.shape, dtype=torch.uint8 if numbers.bits <= 8 else torch.int32, device=x.device)
