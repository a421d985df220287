"""Columns are rounded as the whole grid rounds them, for every registered quantizer; groups fitted apart make up one grid."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lowbit import catalog
from lowbit.errors import ShapeError, UnsupportedError
from lowbit.formats.table import TableFormat
from lowbit.quantizers.grid import Grid, QTensor
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme
from lowbit.quantizers.spec import quantizer
from lowbit.rounding.ieee754 import nearest_even, toward_zero
from lowbit.solvers.columns import GroupFits, column_rounder, ordinary, outer_level, refittable, table_rounder

WORDS = [
    "int4 g32", "int4 g64 asym", "int3 flat256", "int4 g32 hqq", "int4 g64 mse", "e2m1 g64 sign_split", "nvfp4 g32", "mxfp4 even",
    "int4 tensor", "int4 8x32 ragged", "uint3 g32 minmax", "fp8 overflow=special", "nf4 flat64 scale=float32 center=tensor", "float16 cast",
    "q2.6", "table(-1;0.5;2) g32",
]  # fmt: skip
NAMES = [e.name for e in catalog.entries("quantizer")]


def sample(rows: int = 16, n: int = 256) -> Tensor:
    """Numbers of several sizes, with zeros, a row of zeros, and numbers halfway between codes."""
    g = torch.Generator().manual_seed(0)
    W = torch.randn(rows, n, generator=g)
    W[:, ::7] *= 6
    W[2] = 0
    W[:, 5] = 0
    W[4] = torch.randint(-14, 15, (n,), generator=g) / 2
    return W


def grid_of(chosen: Quantizer, W: Tensor) -> Grid:
    try:
        found = chosen.grid(W)
    except (ShapeError, UnsupportedError) as error:
        pytest.skip(f"makes no grid for a matrix of {tuple(W.shape)}: {error}")
    if type(found) is not Grid:
        pytest.skip("does not round single numbers")
    return found


@pytest.mark.parametrize("name", NAMES + WORDS)
def test_a_column_is_rounded_as_the_whole_grid_rounds_it(name: str) -> None:
    W = sample()
    grid = grid_of(quantizer(name), W)
    beyond = W * 1.5  # numbers that the grid was not made for saturate
    for x in (W, beyond):
        expected = replace(grid, overflow="saturate").choose(x).dequantize()
        for j in range(0, W.shape[1], 5):
            got, wanted = column_rounder(grid, j)(x[:, j].contiguous()), expected[:, j].contiguous()
            same = (got.view(torch.int32) == wanted.view(torch.int32)) | ((got == 0) & (wanted == 0))
            assert bool(same.all()), (j, got[~same], wanted[~same])


@pytest.mark.parametrize("name", ["int4 g32", "nvfp4", "fp8"])
def test_other_roundings(name: str) -> None:
    W = sample()
    grid = quantizer(name).grid(W)
    expected = grid.choose(W, toward_zero).dequantize()
    for j in (0, 5, 63):
        assert torch.equal(column_rounder(grid, j, toward_zero)(W[:, j]), expected[:, j])


def test_a_grid_with_an_order_of_its_own() -> None:
    W = sample()
    plain = quantizer("int4 g32").grid(W)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    grid = replace(plain, order=order)
    assert ordinary(plain) and not ordinary(grid)
    expected = grid.choose(W).dequantize()
    assert not torch.equal(expected, plain.choose(W).dequantize())
    for j in range(256):
        assert torch.equal(column_rounder(grid, j)(W[:, j]), expected[:, j])


def test_zero_points_round_to_nearest_only() -> None:
    fmt = catalog.find("format", "uint4")
    assert isinstance(fmt, TableFormat)
    with pytest.raises(AssertionError):
        table_rounder(fmt, toward_zero, torch.ones(1), torch.zeros(1), None)
    assert table_rounder(fmt, nearest_even, torch.ones(1), torch.tensor([3.0]), None)(torch.tensor([-9.0])).item() == -3.0


# ---- groups fitted one after the other


@pytest.mark.parametrize(("spec", "group"), [
    ("int4 g32", 32), ("int4 row", -1), ("nvfp4", 16), ("mxfp4", 32), ("fp8", -1), ("int4 g64 asym", 64), ("int4 g32 hqq", 32),
    ("int4 g32 hqq offset=float16", 32), ("e2m1 g64 sign_split", 64), ("bitmod4 g32", 32),
    ("nf4", 0), ("int4 flat64", 0), ("int4 tensor", 0), ("int4 8x32", 0), ("int4 g32 ragged", 0), ("float16", 0),
    ("int4 g32 scale=(float8_e4m3fn g4)", 0), ("int4 g32 hqq offset=(float8_e4m3fn tensor)", 0),
])  # fmt: skip
def test_which_quantizers_can_be_fitted_group_by_group(spec: str, group: int) -> None:
    assert refittable(quantizer(spec)) == group


def test_a_quantizer_of_another_kind_cannot() -> None:
    class Own:
        """Not a scheme."""

    assert refittable(Own()) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", [
    "int4 g32", "nvfp4", "mxfp4", "int4 g64 asym", "int4 g32 hqq", "int4 g32 hqq offset=float16", "e2m1 g64 sign_split", "bitmod4 g32",
    "nvfp4 sign_split", "int4 g16 mse",
])  # fmt: skip
def test_groups_fitted_apart_are_the_grid_of_the_whole(spec: str) -> None:
    """Under the outer level of the whole matrix; fitted in another order than they lie."""
    W, chosen = sample(), quantizer(spec)
    assert isinstance(chosen, Scheme)
    whole, size = chosen.grid(W), refittable(chosen)
    fits = GroupFits(chosen, (16, 256), size, outer_level(whole))
    for i in reversed(range(256 // size)):
        part = fits.fit(i, W[:, i * size : (i + 1) * size].contiguous())
        assert part.shape == (16, size)
    joined = fits.grid()
    assert joined.shape == whole.shape
    assert torch.equal(joined.choose(W).codes, whole.choose(W).codes)
    assert torch.equal(joined.choose(W).dequantize(), whole.choose(W).dequantize())
    parts = joined.choose(W).packed()
    assert all(torch.equal(parts[k], v) for k, v in whole.choose(W).packed().items())
    assert torch.equal(chosen.unpack(parts, (16, 256)).dequantize(), whole.choose(W).dequantize())


def test_the_outer_level() -> None:
    W = sample()
    assert outer_level(quantizer("int4 g32 scale=float32").grid(W)) is None
    level = outer_level(quantizer("nvfp4").grid(W))
    assert isinstance(level, Grid) and level.blocks.size is None and not isinstance(level.scale, QTensor)
