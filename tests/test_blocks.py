"""Blocks: split, merge and expand against a reference that looks at one element at a time, for every kind and rank."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.blocks import Blocks
from lowbit.errors import ShapeError


@st.composite
def cases(draw):
    """Blocks of any kind and a shape that they fit."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    ragged = draw(st.booleans())
    count = math.prod(shape)
    kind = draw(st.sampled_from(["tuple", "flat", "none"]))

    def extent(n):
        fitting = [d for d in range(1, n + 1) if n % d == 0]
        return draw(st.integers(1, n + 2) if ragged else st.sampled_from([*fitting, 0]))

    if kind == "none":
        return Blocks(None, ragged), shape
    if kind == "flat":
        return Blocks(max(1, extent(count)), ragged), shape
    axes = draw(st.integers(1, len(shape)))
    return Blocks(tuple(extent(n) for n in shape[-axes:]), ragged), shape


def reference(blocks, shape):
    """For each element, in order: the index of its block and its place in the block."""
    if blocks.size is None:
        return {i: ((), k) for k, i in enumerate(itertools.product(*map(range, shape)))}
    if isinstance(blocks.size, int):
        return {i: ((k // blocks.size,), k % blocks.size) for k, i in enumerate(itertools.product(*map(range, shape)))}
    size = (1,) * (len(shape) - len(blocks.size)) + blocks.size
    size = tuple(b or n for b, n in zip(size, shape, strict=True))
    found = {}
    for i in itertools.product(*map(range, shape)):
        place = 0
        for x, b in zip(i, size, strict=True):
            place = place * b + x % b
        found[i] = (tuple(x // b for x, b in zip(i, size, strict=True)), place)
    return found


@settings(max_examples=300, deadline=None)
@given(cases())
def test_every_element_is_in_its_block(case):
    blocks, shape = case
    x = torch.arange(1, math.prod(shape) + 1).reshape(shape)
    split = blocks.split(x)
    assert tuple(split.shape[:-1]) == blocks.counts(shape)
    seen = 0
    for i, (block, place) in reference(blocks, shape).items():
        assert split[(*block, place)] == x[i]
        seen += 1
    assert int((split != 0).sum()) == seen  # the rest is filling, and that is zero


@settings(max_examples=300, deadline=None)
@given(cases())
def test_merge_undoes_split_and_expand_repeats(case):
    blocks, shape = case
    x = torch.arange(1, math.prod(shape) + 1).reshape(shape)
    assert torch.equal(blocks.merge(blocks.split(x), shape), x)
    counts = blocks.counts(shape)
    per_block = torch.arange(math.prod(counts)).reshape(counts)
    full = blocks.expand(per_block, shape)
    assert tuple(full.shape) == shape
    for i, (block, _) in reference(blocks, shape).items():
        assert full[i] == per_block[block]


@settings(max_examples=100, deadline=None)
@given(cases())
def test_strides_do_not_matter(case):
    blocks, shape = case
    x = torch.arange(math.prod(shape)).reshape(shape[::-1]).permute(*reversed(range(len(shape))))
    assert torch.equal(blocks.split(x), blocks.split(x.contiguous()))


@pytest.mark.parametrize(
    "size, shape, counts",
    [
        (None, (4096, 4096), ()),
        ((0,), (4096, 4096), (4096, 1)),
        ((64,), (4096, 4096), (4096, 64)),
        ((128, 128), (4096, 4096), (32, 32)),
        ((32, 1), (8, 512, 64), (8, 16, 64)),
        (64, (4096, 4096), (262144,)),
        ((0, 1), (8, 512, 64), (8, 1, 64)),
        ((1, 16), (16,), (1,)),
        ((0, 16), (32,), (2,)),
        ((0,), (), ()),
        (None, (), ()),
        ((16,), (3, 0), (3, 0)),
        (None, (0,), ()),
    ],
)
def test_counts(size, shape, counts):
    assert Blocks(size).counts(shape) == counts


def test_a_number_without_axes_is_one_block():
    for blocks in (Blocks((0,)), Blocks((1,)), Blocks(None)):
        x = torch.tensor(3.0)
        assert blocks.split(x).tolist() == [3.0]
        assert blocks.merge(blocks.split(x), ()).shape == () and blocks.expand(torch.tensor(2.0), ()).item() == 2.0


@pytest.mark.parametrize("size", [None, (0,), (4,), 4, (2, 4), (0, 1), (0, 0)])
def test_empty_tensors(size):
    blocks = Blocks(size)
    for shape in ((0, 4), (4, 0), (2, 0, 4)):
        x = torch.zeros(shape)
        assert tuple(blocks.merge(blocks.split(x), shape).shape) == shape
        assert blocks.split(x).shape[:-1] == blocks.counts(shape)


def test_leading_ones_say_nothing():
    assert Blocks((1, 1, 16)) == Blocks((16,)) and Blocks((1,)).size == (1,) and Blocks((1, 1)).size == (1,)


def test_a_ragged_block_may_be_longer_than_the_axis():
    blocks = Blocks((8,), ragged=True)
    assert blocks.split(torch.ones(2, 3)).tolist() == [[[1, 1, 1, 0, 0, 0, 0, 0]]] * 2
    assert blocks.counts((2, 9)) == (2, 2)


@pytest.mark.parametrize(
    "blocks, text",
    [
        (Blocks(None), "tensor"),
        (Blocks((0,)), "row"),
        (Blocks((64,)), "g64"),
        (Blocks(64), "flat64"),
        (Blocks((128, 128)), "128x128"),
        (Blocks((0, 1)), "0x1"),
        (Blocks((128, 128), ragged=True), "128x128 ragged"),
    ],
)
def test_text(blocks, text):
    assert str(blocks) == text


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Blocks((-1,)), "a block of -1 elements; sizes are at least 1 (0 in a tuple is the whole axis)"),
        (lambda: Blocks(0), "a block of 0 elements; sizes are at least 1 (0 in a tuple is the whole axis)"),
        (lambda: Blocks(()), "blocks of no axis; (1,) is one element, None the whole tensor"),
        (
            lambda: Blocks((64,)).split(torch.zeros(2, 96)),
            "axis 1 has 96 elements, not a multiple of the block 64; 32 divides it, or say 'ragged'",
        ),
        (
            lambda: Blocks((16, 2)).split(torch.zeros(9, 4)),
            "axis 0 has 9 elements, not a multiple of the block 16; 1 divides it, or say 'ragged'",
        ),
        (
            lambda: Blocks(64).split(torch.zeros(5, 7)),
            "the flat tensor has 35 elements, not a multiple of the block 64; 1 divides it, or say 'ragged'",
        ),
        (lambda: Blocks((4, 4)).counts((8,)), "blocks of 4x4 need 2 axes, the tensor is (8,)"),
    ],
)
def test_errors_name_the_value(make, message):
    with pytest.raises(ShapeError) as error:
        make()
    assert str(error.value) == message
