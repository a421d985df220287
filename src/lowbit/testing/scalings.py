"""Checks that every scaling must pass, a user's own included: ``check_scaling(scaling)``."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit import catalog
from lowbit.errors import UnsupportedError
from lowbit.formats.format import Format
from lowbit.philox import Key, noise
from lowbit.scaling.scaling import Affine, Scaling
from lowbit.threads import one_thread


def blocks_of(kind: str, blocks: int = 6, elements: int = 32) -> Tensor:
    """(blocks, elements) float32 of one kind: random, tiny, subnormal, huge, one-sided, single, zeros."""
    unit = noise(Key(6, kind), (blocks, elements)).double() / 2.0**31 - 1.0
    match kind:
        case "tiny":
            unit = unit * 2.0**-126
        case "subnormal":
            unit = unit * 2.0**-145
        case "huge":
            unit = unit.sign() * (1 - unit.abs() / 8) * torch.finfo(torch.float32).max
        case "positive":
            unit = unit.abs()
        case "negative":
            unit = -unit.abs()
        case "single":
            unit = torch.where(torch.arange(elements) == 3, unit, 0.0)
        case "zeros":
            unit = torch.where(unit < 0, -0.0, 0.0)
            unit[:2] = torch.tensor([[0.0], [-0.0]])
    return unit.float()


KINDS = ("random", "tiny", "subnormal", "huge", "positive", "negative", "single", "zeros")


def candidates(found: Affine | list[Affine]) -> list[Affine]:
    """One or several, as a list."""
    return found if isinstance(found, list) else [found]


def supported(scaling: Scaling, fmt: Format) -> bool:
    """Whether the scaling takes this format; it refuses with an UnsupportedError."""
    try:
        scaling(blocks_of("random"), fmt)
    except UnsupportedError:
        return False
    return True


def check_scaling(scaling: Scaling) -> None:
    """Everything that a scaling owes its users, with every registered format that it takes.

    Raises:
        AssertionError: the first thing that is wrong.
    """
    formats = [entry.thing for entry in catalog.entries("format") if supported(scaling, entry.thing)]
    if not formats:
        raise AssertionError(f"{scaling} refuses every registered format")
    with one_thread():
        for fmt in formats:
            for kind in KINDS:
                check_parts(scaling, fmt, kind)
            check_not_finite(scaling, fmt)
            check_blocks_are_independent(scaling, fmt)
    check_threads(scaling, formats[0])


def check_parts(scaling: Scaling, fmt: Format, kind: str) -> None:
    """Finite data give finite scales that are not negative, float32 and one a block; zeros give scale 0 or a positive one."""
    blocks = blocks_of(kind)
    where = f"{scaling} with {fmt.name} on {kind} blocks"
    for found in candidates(scaling(blocks, fmt)):
        for name, part in found._asdict().items():
            if part is None:
                continue
            if tuple(part.shape) != tuple(blocks.shape[:-1]):
                raise AssertionError(f"{where}: {name} has shape {tuple(part.shape)}, there are {tuple(blocks.shape[:-1])} blocks")
            wanted = torch.int64 if name == "table" else torch.float32
            if part.dtype != wanted:
                raise AssertionError(f"{where}: {name} is {part.dtype}, it should be {wanted}")
            if name != "inverse" and not bool(torch.isfinite(part).all()):
                raise AssertionError(f"{where}: {name} holds {part[~torch.isfinite(part)][0]}")
            if name in ("scale", "negative") and bool(torch.signbit(part).any()):
                raise AssertionError(f"{where}: {name} is {part[torch.signbit(part)][0]:g}")
        if found.zero is not None and not torch.equal(fmt.decode(fmt.encode(found.zero)), found.zero):
            raise AssertionError(f"{where}: the zero point {found.zero.tolist()} is no number of the format")


def check_not_finite(scaling: Scaling, fmt: Format) -> None:
    """A NaN or an Inf gives its block, and no other, a NaN scale."""
    for bad in (float("nan"), float("inf"), float("-inf")):
        blocks = blocks_of("random")
        blocks[2, 5] = bad
        for found in candidates(scaling(blocks, fmt)):
            broken = torch.isnan(found.scale)
            if found.negative is not None:
                broken = broken & torch.isnan(found.negative)
            if broken.tolist() != [i == 2 for i in range(len(blocks))]:
                raise AssertionError(
                    f"{scaling} with {fmt.name}: {bad} in block 2 gives NaN scales in {broken.nonzero().flatten().tolist()}"
                )


def check_blocks_are_independent(scaling: Scaling, fmt: Format) -> None:
    """A block's scale is that of the block alone, whatever the blocks beside it."""
    blocks = torch.cat((blocks_of("random"), blocks_of("huge", 2)))
    together = candidates(scaling(blocks, fmt))
    for i in (0, 3, 7):
        alone = candidates(scaling(blocks[i : i + 1], fmt))
        for one, all_ in zip(alone, together, strict=True):
            for name, part in one._asdict().items():
                if part is not None and not torch.equal(part, all_._asdict()[name][i : i + 1]):
                    raise AssertionError(f"{scaling} with {fmt.name}: {name} of block {i} depends on the other blocks")


def check_threads(scaling: Scaling, fmt: Format) -> None:
    """The same scales with 1 and 2 threads, for one large block and for many."""
    for blocks in (blocks_of("random", 1, 300_001), blocks_of("random", 300, 1000)):
        with one_thread():
            found = [candidates(scaling(blocks, fmt))]
            torch.set_num_threads(2)  # what was before comes back on leaving
            found.append(candidates(scaling(blocks, fmt)))
        for one, two in zip(*found, strict=True):
            for name, part in one._asdict().items():
                if part is not None and not torch.equal(part, two._asdict()[name]):
                    raise AssertionError(f"{scaling} with {fmt.name}: {name} of {tuple(blocks.shape)} differs between 1 and 2 threads")
