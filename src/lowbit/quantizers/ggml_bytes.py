"""Where ggml puts the bits of a block: planes of codes, packed scales, float16 words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Plane(NamedTuple):
    """Bits ``low`` .. ``low + width - 1`` of every code. Chunks of ``run`` bytes; byte j of a chunk holds codes j, j + run, ..."""

    low: int
    width: int
    run: int


class Layout(NamedTuple):
    """A block: its numbers, its bytes, and the fields in order. d and m are float16 words, e is one byte of exponent."""

    elements: int
    nbytes: int
    fields: tuple[str | Plane, ...]


LAYOUTS = {
    "q4_0": Layout(32, 18, ("d", Plane(0, 4, 16))),
    "q4_1": Layout(32, 20, ("d", "m", Plane(0, 4, 16))),
    "q5_0": Layout(32, 22, ("d", Plane(4, 1, 1), Plane(0, 4, 16))),
    "q5_1": Layout(32, 24, ("d", "m", Plane(4, 1, 1), Plane(0, 4, 16))),
    "q8_0": Layout(32, 34, ("d", Plane(0, 8, 1))),
    "iq4_nl": Layout(32, 18, ("d", Plane(0, 4, 16))),
    "mxfp4": Layout(32, 17, ("e", Plane(0, 4, 16))),
    "q2_k": Layout(256, 84, ("nibble scales", Plane(0, 2, 32), "d", "m")),
    "q3_k": Layout(256, 110, (Plane(2, 1, 32), Plane(0, 2, 32), "16 scales", "d")),
    "q4_k": Layout(256, 144, ("d", "m", "8 scales", Plane(0, 4, 32))),
    "q5_k": Layout(256, 176, ("d", "m", "8 scales", Plane(4, 1, 32), Plane(0, 4, 32))),
    "q6_k": Layout(256, 210, (Plane(0, 4, 64), Plane(4, 2, 32), "byte scales", "d")),
    "tq1_0": Layout(256, 54, ("trits", "d")),
    "tq2_0": Layout(256, 66, (Plane(0, 2, 32), "d")),
}

#: bytes of the fields that are no planes
SIZES = {"d": 2, "m": 2, "e": 1, "nibble scales": 16, "16 scales": 12, "8 scales": 12, "byte scales": 16, "trits": 52}


def split(name: str, data: Tensor) -> dict[str, Tensor]:
    """The fields of every block of a type: codes, and d, m, sc (scales), mn (minima) where it has them; int32, blocks in rows.

    Shapes:
        data    uint8, a multiple of the block's bytes
    """
    layout = LAYOUTS[name]
    rest = data.reshape(-1, layout.nbytes).to(torch.int32)
    found: dict[str, Tensor] = {}
    codes = torch.zeros(len(rest), layout.elements, dtype=torch.int32)
    for field in layout.fields:
        size = layout.elements * field.width // 8 if isinstance(field, Plane) else SIZES[field]
        here, rest = rest[:, :size], rest[:, size:]
        if isinstance(field, Plane):
            codes = codes | _from_plane(here, field) << field.low
        elif field in ("d", "m"):
            found[field] = here[:, 0] | here[:, 1] << 8
        elif field == "e":
            found["d"] = here[:, 0]
        elif field == "trits":
            codes = _from_trits(here)
        else:
            found |= _from_scales(field, here)
    return found | {"codes": codes}


def join(name: str, fields: Mapping[str, Tensor]) -> Tensor:
    """The inverse of ``split``, (blocks, bytes) uint8. Fields may have any shape that holds the blocks in order."""
    layout = LAYOUTS[name]
    codes = fields["codes"].reshape(-1, layout.elements).to(torch.int32)
    parts = []
    for field in layout.fields:
        if isinstance(field, Plane):
            parts.append(_to_plane(codes >> field.low & (1 << field.width) - 1, field))
        elif field in ("d", "m"):
            word = fields[field].reshape(-1, 1).to(torch.int32)
            parts += [word & 0xFF, word >> 8 & 0xFF]
        elif field == "e":
            parts.append(fields["d"].reshape(-1, 1).to(torch.int32))
        elif field == "trits":
            parts.append(_to_trits(codes))
        else:
            count = 8 if field == "8 scales" else 16
            scales = fields["sc"].reshape(-1, count).to(torch.int32)
            low = fields["mn"].reshape(-1, count).to(torch.int32) if "mn" in fields else scales
            parts.append(_to_scales(field, scales, low))
    return torch.cat(parts, 1).to(torch.uint8)


def _from_plane(data: Tensor, plane: Plane) -> Tensor:
    shifts = torch.arange(0, 8, plane.width).reshape(1, 1, -1, 1)
    return (data.unflatten(1, (-1, 1, plane.run)) >> shifts & (1 << plane.width) - 1).flatten(1)


def _to_plane(codes: Tensor, plane: Plane) -> Tensor:
    shifts = torch.arange(0, 8, plane.width).reshape(1, 1, -1, 1)
    return (codes.unflatten(1, (-1, 8 // plane.width, plane.run)) << shifts).sum(2, dtype=torch.int32).flatten(1)


def _from_scales(field: str, data: Tensor) -> dict[str, Tensor]:
    if field == "nibble scales":
        return {"sc": data & 15, "mn": data >> 4}
    if field == "byte scales":
        return {"sc": data}
    a, b, c = data[:, :4], data[:, 4:8], data[:, 8:]
    if field == "8 scales":  # six bits each: a and b hold the first four and the upper bits of the others, c their lower four
        scales = torch.cat((a & 63, c & 15 | a >> 2 & 48), 1)
        return {"sc": scales, "mn": torch.cat((b & 63, c >> 4 | b >> 2 & 48), 1)}
    low = torch.cat((data[:, :8] & 15, data[:, :8] >> 4), 1)
    return {"sc": low | _from_plane(c, Plane(4, 2, 4)) << 4}


def _to_scales(field: str, scales: Tensor, minima: Tensor) -> Tensor:
    if field == "nibble scales":
        return scales | minima << 4
    if field == "byte scales":
        return scales
    if field == "8 scales":
        upper = (scales[:, :4] | (scales[:, 4:] & 48) << 2, minima[:, :4] | (minima[:, 4:] & 48) << 2)
        return torch.cat((*upper, scales[:, 4:] & 15 | (minima[:, 4:] & 15) << 4), 1)
    return torch.cat((scales[:, :8] & 15 | (scales[:, 8:] & 15) << 4, _to_plane(scales >> 4, Plane(4, 2, 4))), 1)


#: bytes, codes a byte and distance of the codes of the three runs of TQ1_0
TRITS = ((32, 5), (16, 5), (4, 4))


def _from_trits(data: Tensor) -> Tensor:
    """A byte is a fraction of 256 in base 3: its digits come out by multiplying."""
    parts, start = [], 0
    for run, count in TRITS:
        here = data[:, start : start + run].unsqueeze(1)
        powers = 3 ** torch.arange(count).reshape(1, -1, 1)
        parts.append(((here * powers & 0xFF) * 3 >> 8).flatten(1))
        start += run
    return torch.cat(parts, 1).to(torch.int32)


def _to_trits(codes: Tensor) -> Tensor:
    parts, start = [], 0
    for run, count in TRITS:
        here = codes[:, start : start + run * count].unflatten(1, (count, run))
        powers = 3 ** (4 - torch.arange(count)).reshape(1, -1, 1)
        parts.append((here * powers).sum(1, dtype=torch.int32))
        start += run * count
    return (torch.cat(parts, 1) * 256 + 242) // 243
