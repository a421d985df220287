"""How tensors are handed to the extension."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowbit.blocks import Blocks
from lowbit.kernels.cpu.codec import codec
from lowbit.kernels.grid_spec import Candidate, GridSpec, Layout, Numbers, ScaleRule, Units, layout
from lowbit.kernels.op import extension

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
NO_RULE, GIVEN = 0, 1
RULES = {"none": NO_RULE, "absmax": 2, "power_of_two": 3, "minmax": 4, "hifloat4": 5, "sign_split": 6, "absmean": 7, "extremes": 8}
PHILOX, WORDS = 1, 2

Rule = tuple[float, ...]

#: the rule of units that are given, of a cast, and of scales that are the largest magnitudes
GIVEN_RULE: Rule = (GIVEN, 1.0, 0, 0, 1.0, 0.0, 0.0, 1.0)
CAST_RULE: Rule = (NO_RULE, *GIVEN_RULE[1:])
LARGEST_RULE: Rule = (RULES["absmax"], *GIVEN_RULE[1:])

NO_UNITS = Units()

Noise = Tensor | tuple[int, int] | None


def unfit(x: Tensor) -> str | None:
    """Why numbers cannot be handed over: they are not float32, bfloat16 or float16 in plain memory, or a gradient is wanted."""
    if type(x) not in (Tensor, torch.nn.Parameter) or x.device.type != "cpu" or x.layout != torch.strided:
        return f"{type(x).__name__} on {x.device} is not a plain tensor on the CPU"
    if x.dtype not in TYPES:
        return f"{x.dtype} is not float32, bfloat16 or float16"
    if x.requires_grad and torch.is_grad_enabled():
        return "a gradient is wanted, which the kernel does not compute"
    return None


def unfit_units(units: Units | str, blocks: Blocks, shape: torch.Size, *, differentiable: bool) -> str | None:
    """Why the values of blocks cannot be handed over."""
    if isinstance(units, str):
        return units
    if layout(blocks, shape) is None:
        return f"blocks {blocks} of a tensor of shape {tuple(shape)} are not blocks of rows and columns"
    counts = blocks.counts(shape)
    for name, values in units._asdict().items():
        if values is None:
            continue
        if values.dtype != torch.float32 or values.device.type != "cpu" or tuple(values.shape) != counts:
            return f"{name} is {values.dtype} of {tuple(values.shape)} on {values.device}, not float32 of {counts} on the CPU"
        if differentiable and values.requires_grad and torch.is_grad_enabled():
            return f"a gradient for {name} is wanted, which the kernel does not compute"
    return None


def unfit_noise(noise: Noise, numbers: Numbers, x: Tensor) -> str | None:
    """Why a stochastic rounding cannot be done."""
    if numbers.stochastic and (noise is None or (isinstance(noise, Tensor) and noise.shape != x.shape)):
        return "stochastic rounding needs one word of noise an element"
    return None


def rule(r: ScaleRule) -> Rule:
    """As the extension takes it."""
    return RULES[r.kind], r.top, r.top_exponent, r.threshold, r.high - r.low, r.low, r.high, r.factor


def run(
    x: Tensor,
    numbers: Numbers | None,
    layout: Layout,
    rule: Rule,
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
) -> None:
    """One job of ``csrc/drive.h``; all tensors are contiguous.

    Args:
        scale_unit: one number, of which stored scales are multiples.
        second_out: zero points, or scales of negative numbers.
        chosen: uint8, which candidate each block keeps.
        noise: words (int64, one an element) or the two words of a Philox key.
    """
    module: Any = extension("lowbit._cpu")
    dense = [None if u is None else u.contiguous() for u in units]  # held until the call is over
    words = noise.to(torch.int64).contiguous() if isinstance(noise, Tensor) else None
    key = noise if isinstance(noise, tuple) else (0, 0)
    module.run(
        None if numbers is None else codec(numbers), None if scale is None else codec(scale), address(scale_unit),
        x.data_ptr(), TYPES[x.dtype], layout, rule,
        [0 if u is None else u.data_ptr() for u in dense], address(out), 0 if out is None else TYPES[out.dtype], address(codes),
        0 if codes is None else codes.element_size(), address(scale_out), address(second_out),
        [(codec(c.numbers), c.top, c.share) for c in candidates], address(chosen),
        WORDS if words is not None else PHILOX if noise is not None else 0, *key, address(words), torch.get_num_threads(),
    )  # fmt: skip


def address(x: Tensor | None) -> int:
    """Where the numbers of a tensor start, 0 for none."""
    return 0 if x is None else x.data_ptr()


def one_pass(spec: GridSpec) -> bool:
    """Whether scales are stored on the way: as they are, by a cast, or as multiples of one number that is known before."""
    return spec.units is None and (spec.scale is None or isinstance(spec.scale, Numbers) or spec.under_one is not None)


def stored_as(spec: GridSpec) -> Numbers | None:
    """How scales are cast on the way, None where they are not or where a quantizer of its own does it."""
    under = spec.under_one
    return under.numbers if under is not None else spec.scale if isinstance(spec.scale, Numbers) else None


def scale_unit(x: Tensor, spec: GridSpec) -> Tensor | None:
    """The one number that stored scales are multiples of: what the rules make of the tensor's largest magnitude."""
    under = spec.under_one
    if under is None:
        return None
    found, one = torch.empty(1), Layout(1, 1, 1, 1, 1)
    run(x, None, Layout(1, 1, x.numel(), 1, x.numel()), LARGEST_RULE, scale_out=found)
    if spec.candidates:
        tops = [(LARGEST_RULE[0], c.top, *LARGEST_RULE[2:]) for c in spec.candidates]
        ways = [(torch.empty(1), top, c.share) for top, c in zip(tops, spec.candidates, strict=True)]
        for way, top, share in ways:
            run(found, None, one, top, scale_out=way)
            way *= share
        found = torch.stack([way for way, _, _ in ways]).amax(0)
    else:
        run(found, None, one, rule(spec.rule), scale_out=found)
    run(found, None, one, rule(under.rule), scale_out=found)
    if isinstance(under.scale, Numbers):
        run(found, under.scale, one, CAST_RULE, out=found)
    return found


def as_words(noise: Noise, numbers: Numbers) -> Noise:
    """The noise, where the rounding reads it."""
    return noise if numbers.stochastic else None


def empty_codes(numbers: Numbers, shape: tuple[int, ...]) -> Tensor:
    """Room for codes: uint8 up to 8 bits, int32 above."""
    return torch.empty(shape, dtype=torch.uint8 if numbers.bits <= 8 else torch.int32)
