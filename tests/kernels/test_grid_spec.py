"""Layouts against Blocks.expand: the same elements share a unit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowbit.blocks import Blocks
from lowbit.errors import ShapeError
from lowbit.kernels.grid_spec import Layout, layout

sizes = st.one_of(st.none(), st.integers(1, 9), st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), sizes)
def test_the_same_elements_share_a_unit(shape: list[int], size: tuple[int, ...] | int | None) -> None:
    blocks = Blocks(size, ragged=True)
    try:
        counts = blocks.counts(shape)
    except ShapeError:
        return
    found = layout(blocks, shape)
    wide = [b for n, b in zip(shape, blocks.axes(shape), strict=True) if b not in (1, n)] if isinstance(size, tuple) else []
    if found is None:
        assert len(wide) + (blocks.axes(shape)[0] > 1) > 1  # several axes are cut, or whole axes lie between
        return
    batch, rows, columns, block_rows, block_columns = found
    assert batch * rows * columns == torch.Size(shape).numel()
    per_row, per_column = -(-columns // block_columns), -(-rows // block_rows)
    b, r, c = torch.meshgrid(torch.arange(batch), torch.arange(rows), torch.arange(columns), indexing="ij")
    unit = (b * per_column + r // block_rows) * per_row + c // block_columns
    expected = blocks.expand(torch.arange(torch.Size(counts).numel()).reshape(counts), shape)
    assert torch.equal(unit.flatten(), expected.flatten())
    assert found.blocks == torch.Size(counts).numel()


@pytest.mark.parametrize(
    "size, shape, expected",
    [
        ((16,), (8, 64), Layout(1, 8, 64, 1, 16)),
        (None, (3, 5), Layout(1, 1, 15, 1, 15)),
        (64, (2, 128), Layout(1, 1, 256, 1, 64)),
        ((0, 0, 0), (7, 3, 2, 2), Layout(1, 1, 84, 1, 12)),  # a scale an output channel
        ((128, 128), (2, 256, 384), Layout(2, 256, 384, 128, 128)),
        ((32, 1), (4, 64, 8), Layout(4, 64, 8, 32, 1)),
    ],
)
def test_layouts(size: tuple[int, ...] | int | None, shape: tuple[int, ...], expected: Layout) -> None:
    assert layout(Blocks(size), shape) == expected


def test_blocks_over_three_axes_have_no_layout() -> None:
    assert layout(Blocks((2, 2, 2)), (4, 4, 4)) is None
