"""Grid and QTensor: each step of the arithmetic is one float32 operation in the stated order, for every part and kind of blocks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lowbit.blocks import Blocks
from lowbit.errors import CheckpointError, ShapeError
from lowbit.formats.bitmod import bitmod4
from lowbit.formats.integer import INTEGERS
from lowbit.formats.minifloat import float4_e2m1fn, float8_e4m3fn
from lowbit.formats.table import TableFormat
from lowbit.philox import Key, noise
from lowbit.quantizers.grid import Grid, QTensor, dense, table_bits, unpack_codes, unpack_plain
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.quantizers.spec import quantizer
from lowbit.rounding.stochastic import stochastic
from lowbit.testing.quantizers import sample

pytestmark = pytest.mark.usefixtures("every_backend")

int4 = INTEGERS["int4"]
X = sample((4, 32))
PER_BLOCK = sample((4, 4), 1).abs() + 0.1
G8 = Blocks((8,))


def each(values):
    """One value a block of 8, repeated for its elements, as numpy."""
    return values.numpy().repeat(8, -1)


def test_choose_divides_and_decode_multiplies():
    q = Grid(float4_e2m1fn, G8, (4, 32), scale=PER_BLOCK).choose(X)
    y = X.numpy() / each(PER_BLOCK)
    assert torch.equal(q.codes, float4_e2m1fn.encode(torch.from_numpy(y)))
    assert np.array_equal(q.dequantize().numpy(), float4_e2m1fn.decode(q.codes).numpy() * each(PER_BLOCK))


def test_an_offset_is_in_units_of_x():
    offset = sample((4, 4), 2)
    q = Grid(int4, G8, (4, 32), scale=PER_BLOCK, offset=offset).choose(X)
    y = (X.numpy() - each(offset)) / each(PER_BLOCK)
    assert torch.equal(q.codes, int4.encode(torch.from_numpy(y)))
    assert np.array_equal(q.dequantize().numpy(), int4.decode(q.codes).numpy() * each(PER_BLOCK) + each(offset))


@pytest.mark.parametrize("blocks", [Blocks(None), Blocks((0,)), Blocks(8), Blocks((2, 16)), Blocks((4, 1))])
def test_an_offset_may_have_its_own_blocks(blocks):
    offset = sample(blocks.counts((4, 32)), 3)
    q = Grid(int4, G8, (4, 32), scale=PER_BLOCK, offset=offset, offset_blocks=blocks).choose(X)
    full = blocks.expand(offset, (4, 32)).numpy()
    assert torch.equal(q.codes, int4.encode(torch.from_numpy((X.numpy() - full) / each(PER_BLOCK))))
    assert np.array_equal(q.dequantize().numpy(), int4.decode(q.codes).numpy() * each(PER_BLOCK) + full)


def test_a_zero_point_moves_the_codes_after_rounding():
    """code = round(x / s) + z, saturated; a tie is decided by the integer, not by the code."""
    uint4 = INTEGERS["uint4"]
    zero = torch.tensor([[3.0, 8.0]])
    x = torch.tensor([[0.5, 1.5, -0.5, -9.0, 0.5, 1.5, 2.5, 99.0]])
    q = Grid(uint4, Blocks((4,)), (1, 8), scale=torch.ones(1, 2), zero=zero).choose(x)
    assert q.codes.tolist() == [[3, 5, 3, 0, 8, 10, 10, 15]]
    assert q.dequantize().tolist() == [[0.0, 2.0, 0.0, -3.0, 0.0, 2.0, 2.0, 7.0]]


def test_a_second_scale_is_for_negative_numbers():
    negative = PER_BLOCK * 3
    q = Grid(float4_e2m1fn, G8, (4, 32), scale=PER_BLOCK, negative=negative).choose(X)
    scale = np.where(X.numpy() < 0, each(negative), each(PER_BLOCK))
    assert torch.equal(q.codes, float4_e2m1fn.encode(torch.from_numpy(X.numpy() / scale)))
    assert np.array_equal(q.dequantize().numpy(), float4_e2m1fn.decode(q.codes).numpy() * scale)


def test_codes_may_be_chosen_with_an_inverse():
    """As where hardware multiplies by a reciprocal: 3 * float32(1/3) rounds otherwise than 3 / 3 would."""
    inverse = torch.full((4, 4), 0.37)
    q = Grid(float4_e2m1fn, G8, (4, 32), scale=PER_BLOCK, inverse=inverse).choose(X)
    assert torch.equal(q.codes, float4_e2m1fn.encode(X * 0.37))
    assert np.array_equal(q.dequantize().numpy(), float4_e2m1fn.decode(q.codes).numpy() * each(PER_BLOCK))


def test_a_block_may_choose_its_table():
    fmt = TableFormat("two", (-1.0, 0.0, 1.0, 2.0), alternatives=((-2.0, 0.0, 1.0, 4.0),))
    table = torch.tensor([[0, 1, 0, 1]] * 4)
    q = Grid(fmt, G8, (4, 32), scale=PER_BLOCK, table=table).choose(X)
    which = torch.from_numpy(each(table))
    assert torch.equal(q.codes, fmt.encode(torch.from_numpy(X.numpy() / each(PER_BLOCK)), table=which))
    assert torch.equal(q.dequantize(), fmt.decode(q.codes, table=which) * torch.from_numpy(each(PER_BLOCK)))


def test_where_a_scale_is_zero_everything_is_zero():
    scale = PER_BLOCK.clone()
    scale[1, 2] = 0.0
    q = Grid(float4_e2m1fn, G8, (4, 32), scale=scale).choose(X)
    assert q.codes[1, 16:24].tolist() == [0] * 8 and q.dequantize()[1, 16:24].tolist() == [0.0] * 8
    offset = torch.full((4, 4), 2.5)
    assert Grid(int4, G8, (4, 32), scale=scale, offset=offset).choose(X).dequantize()[1, 16:24].tolist() == [2.5] * 8


def test_a_nan_scale_makes_its_block_nan():
    scale = PER_BLOCK.clone()
    scale[0, 0] = torch.nan
    got = Grid(int4, G8, (4, 32), scale=scale).choose(X).dequantize()
    assert got.isnan().nonzero().tolist() == [[0, i] for i in range(8)]


def test_the_blocks_may_be_those_of_reordered_columns():
    """Act-order: column order[k] of x is column k of the grid."""
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    plain = Grid(float4_e2m1fn, G8, (4, 32), scale=PER_BLOCK)
    ordered = replace(plain, order=order)
    q = ordered.choose(X)
    want = plain.choose(X[:, order])
    assert torch.equal(q.codes[:, order], want.codes)
    assert torch.equal(q.dequantize()[:, order], want.dequantize())


def test_noise_belongs_to_the_element():
    words = noise(Key(1), (4, 32))
    for blocks, scale in (
        (G8, PER_BLOCK),
        (Blocks((2, 16)), torch.ones(2, 2)),
        (Blocks(24, ragged=True), torch.ones(6)),
        (Blocks(None), torch.ones(())),
    ):
        grid = Grid(float4_e2m1fn, blocks, (4, 32), scale=scale)
        y = X.numpy() / blocks.expand(scale, (4, 32)).numpy()
        assert torch.equal(grid.choose(X, stochastic, words).codes, float4_e2m1fn.encode(torch.from_numpy(y), stochastic, words))


def test_float64_is_compared_as_it_is():
    """Half a float32 ulp above a tie."""
    x = torch.tensor([[2.5 + 2.0**-40]], dtype=torch.float64)
    grid = Grid(int4, Blocks(None), (1, 1), scale=torch.ones(()))
    assert grid.choose(x).codes.item() == 3 and grid.choose(x.float()).codes.item() == 2


def quantizers():
    return {
        "int4": quantizer("int4 g8"),
        "asym": quantizer("int4 g8 asym"),
        "tile": quantizer("e2m1 2x16 scale=(e4m3fn tensor)"),
        "flat": quantizer("nf4_element flat24 ragged scale=float32 center=tensor"),
        "tensor": quantizer("int4 tensor"),
        "split": quantizer("e2m1 g8 sign_split"),
        "hqq": quantizer("uint4 g8 hqq"),
        "bitmod": Scheme(TableFormat("two", (-1, 0, 1, 2), alternatives=((-2, 0, 1, 4),)), G8, quantizer("int4 g8").scaling),
    }


@pytest.mark.parametrize("name", quantizers())
@pytest.mark.parametrize("ordered", [False, True])
def test_a_part_chooses_as_the_whole(name, ordered):
    grid = quantizers()[name].grid(X)
    if ordered:
        grid = replace(grid, order=torch.randperm(32, generator=torch.Generator().manual_seed(1)))
    whole = grid.choose(X)
    for rows, columns in ((slice(0, 4), slice(5, 6)), (slice(1, 3), slice(0, 32)), (slice(2, 3), slice(7, 19))):
        part = grid.part(rows, columns).choose(X[rows, columns])
        assert torch.equal(part.codes, whole.codes[rows, columns])
        assert torch.equal(part.dequantize(), whole.dequantize()[rows, columns])


def test_a_nested_scale_is_a_quantized_tensor():
    q = quantizer("e2m1 g8 scale=(e4m3fn tensor scale=float32)").quantize(X)
    assert isinstance(q.grid.scale, QTensor) and q.grid.scale.codes.shape == (4, 4)
    assert torch.equal(dense(q.grid.scale), q.grid.scale.dequantize())
    assert sorted(q.packed()) == ["codes", "scale.codes", "scale.scale"]
    assert q.nbytes == 64 + 16 + 4


def test_packed_parts():
    q = replace(quantizer("int4 g8 asym scale=float32").grid(X), order=torch.arange(31, -1, -1)).choose(X)
    parts = q.packed()
    assert {k: (v.dtype, tuple(v.shape)) for k, v in parts.items()} == {
        "codes": (torch.uint8, (64,)),
        "scale": (torch.float32, (4, 4)),
        "zero": (torch.uint8, (8,)),
        "order": (torch.int32, (32,)),
    }
    back = quantizer("int4 g8 asym scale=float32").unpack(parts, (4, 32))
    assert torch.equal(back.dequantize(), q.dequantize()) and torch.equal(back.grid.order, q.grid.order)


def test_table_numbers_take_the_bits_that_they_need():
    three = TableFormat("t", (0.0, 1.0), alternatives=((0.0, 2.0),) * 3)
    assert [table_bits(TableFormat("t", (0.0, 1.0), alternatives=((0.0, 2.0),) * n)) for n in (1, 2, 3, 4)] == [1, 2, 2, 3]
    assert table_bits(three) == 2


def test_errors():
    grid = Grid(int4, G8, (4, 32), scale=PER_BLOCK)
    with pytest.raises(ShapeError, match=r"the grid was made for \(4, 32\), the tensor is \(4, 16\)"):
        grid.choose(X[:, :16])
    with pytest.raises(ShapeError, match=r"part\(\) cuts matrices, the grid is for \(2, 2, 32\)"):
        Grid(int4, G8, (2, 2, 32), scale=PER_BLOCK).part(slice(0, 1), slice(0, 1))
    with pytest.raises(ShapeError, match=r"a grid with blocks g8 cannot be moved to a tensor of shape \(8,\)"):
        grid.reshaped((8,))
    assert cast(float8_e4m3fn).grid(X).reshaped((8,)).shape == (8,)


def test_unpacking_checks_what_it_is_given():
    parts = {"codes": torch.tensor([0xFF], dtype=torch.uint8), "scale": torch.ones(2)}
    ternary = TableFormat("t", (-1.0, 0.0, 1.0))
    with pytest.raises(CheckpointError, match="the part 'codes' holds code 3, t has 3 codes"):
        unpack_codes(parts, "codes", ternary, (4,))
    with pytest.raises(CheckpointError, match=r"the part 'zero' is missing; there are \['codes', 'scale'\]"):
        unpack_codes(parts, "zero", int4, (4,))
    with pytest.raises(CheckpointError, match=r"4 codes of 4 bits take 2 bytes \(uint8\), got 1"):
        unpack_codes(parts, "codes", int4, (4,))
    with pytest.raises(CheckpointError, match=r"the part 'scale' should be float32 of shape \(3,\), it is torch.float32 of \(2,\)"):
        unpack_plain(parts, "scale", (3,))
    with pytest.raises(CheckpointError, match="the part 'offset' is missing"):
        unpack_plain(parts, "offset", (3,))
    with pytest.raises(CheckpointError, match="the part 'order' is not a permutation of 32 columns"):
        q = quantizer("int4 g8").quantize(X)
        quantizer("int4 g8").unpack(q.packed() | {"order": torch.zeros(32, dtype=torch.int32)}, (4, 32))


@pytest.mark.parametrize("ordered", [False, True])
def test_blocks_with_tables_of_their_own(ordered):
    """Every element by its own block's table, as an explicit search over that table finds it."""
    g = torch.Generator().manual_seed(0)
    x, table, scale = torch.randn(6, 32, generator=g), torch.randint(0, 5, (6, 4), generator=g), torch.rand(6, 4, generator=g) + 0.1
    order = torch.randperm(32, generator=g) if ordered else None
    grid = Grid(bitmod4, Blocks((8,)), (6, 32), scale=scale, table=table.clamp(max=3), order=order)
    q = grid.choose(x)
    y = q.dequantize()
    tables = torch.tensor([bitmod4.values, *bitmod4.alternatives])
    for place in range(32):
        column = int(order[place]) if ordered else place
        numbers = tables[table.clamp(max=3)[:, place // 8]] * scale[:, place // 8, None]
        assert torch.equal(y[:, column], numbers.gather(1, q.codes[:, column, None].long())[:, 0])
        assert torch.allclose((y[:, column] - x[:, column]).abs(), (numbers - x[:, column, None]).abs().amin(1), atol=1e-6)
