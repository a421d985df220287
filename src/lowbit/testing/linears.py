"""Random weights of packed linear layers."""

from __future__ import annotations

import torch

from lowbit.kernels.linear_spec import LinearSpec


def random_linear(
    rows: int, columns: int, bits: int, group: int, seed: int = 0, kind: str = "table", scales: str = "float32", offset: bool = False
) -> LinearSpec:
    """A random weight.

    Args:
        kind: the table: ``table`` (normal numbers), ``signed``, ``unsigned``, ``ternary``, ``fp8``.
        scales: such that this form (``float32``, ``bfloat16``, ``float16``, ``e8m0``, ``e4m3`` with a factor a row), and no smaller
            one, is exact.
    """
    g = torch.Generator().manual_seed(seed)
    count = 1 << bits
    match kind:
        case "table":
            table = torch.randn(count, generator=g)
        case "signed":
            table = torch.arange(count).float() - count // 2
        case "unsigned":
            table = torch.arange(count).float()
        case "ternary":
            table = torch.tensor([-1.0, 0.0, 1.0])
        case _:
            table = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).float()
    codes = torch.randint(0, len(table), (rows, columns), generator=g).to(torch.uint8)
    if kind == "fp8":
        codes[codes & 127 == 127] = 3  # NaN
    groups = -(-columns // group)
    scale = torch.exp(torch.randn(rows, groups, generator=g)) * 0.01
    factor = None
    match scales:
        case "bfloat16":
            scale = scale.bfloat16().float()
        case "float16":
            scale = scale.half().float()
        case "e8m0":
            scale = torch.exp2(torch.randint(-20, 20, scale.shape, generator=g).float())
        case "e4m3":
            scale = (scale * 1e4).clamp(0, 448).to(torch.float8_e4m3fn).float()
            factor = torch.rand(rows, generator=g) * 1e-3
    return LinearSpec(codes, bits, table, scale, group, torch.randn(rows, groups, generator=g) * 0.02 if offset else None, factor)
