"""Packing: the bit stream that the module's first paragraph describes, for every width."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.errors import CheckpointError, ShapeError
from lowbit.packing import pack, packed_nbytes, unpack


def stream(codes, bits):
    """The same order as one large integer: code i at bit i * bits, bytes little-endian."""
    total = sum(code << i * bits for i, code in enumerate(codes))
    return list(total.to_bytes((len(codes) * bits + 7) // 8, "little"))


@st.composite
def widths_and_codes(draw):
    bits = draw(st.integers(1, 32))
    return bits, draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))


@settings(max_examples=300, deadline=None)
@given(widths_and_codes())
def test_any_width_round_trips_and_is_the_bit_stream(case):
    bits, codes = case
    tensor = torch.tensor(codes, dtype=torch.int64).int()
    data = pack(tensor, bits)
    assert data.dtype == torch.uint8 and data.tolist() == stream(codes, bits)
    back = unpack(data, bits, len(codes))
    assert (
        [code % 2**bits for code in back.tolist()] == codes
        and torch.equal(back, tensor.to(back.dtype))
        and back.dtype == (torch.uint8 if bits <= 8 else torch.int32)
    )
    assert packed_nbytes(len(codes), bits) == len(data)


#: the bytes of the codes 1, 6, 11 ... 51, each modulo 2**bits; every backend must write these
BYTES = {
    1: "5505",
    2: "393939",
    3: "f1509df100",
    4: "610ba54fe903",
    5: "c12c58f527c94d",
    6: "81b14095f691a93b03",
    7: "01c30252d17c4829d70c",
    8: "01060b10151a1f24292e33",
    9: "010c2c805041c30712295ccc00",
    10: "0118b000041568f0010929b83003",
    11: "0130c0022050010d7c80042970c10c00",
    12: "0160000b000115a0011f400229e0023300",
    13: "01c0002c0008500134c007200129c005cc00",
    14: "018001b0004000158006f001900029800b300300",
    15: "010003c00200025001d0007c004800290017c00c00",
    16: "010006000b00100015001a001f00240029002e003300",
}


#: the bytes of the codes 2**bits - 1, 1, 0x12345 (of 17 bits and more) and 2**(bits - 1)
WIDE = {
    17: "ffff0300148d040008",
    20: "ffff1f00004523010080",
    24: "ffffff010000452301000080",
    25: "ffffff030000148d0400000008",
    31: "ffffffff00000040d148000000000008",
    32: "ffffffff010000004523010000000080",
}


@pytest.mark.parametrize("bits", WIDE)
def test_the_bytes_of_wide_codes(bits):
    codes = torch.tensor([2**bits - 1, 1, 0x12345, 2 ** (bits - 1)]).int()
    assert pack(codes, bits).numpy().tobytes().hex() == WIDE[bits]
    assert torch.equal(unpack(pack(codes, bits), bits, 4), codes)
    signed = torch.where(codes.long() & 1 << bits - 1 != 0, codes.long() | -(1 << bits), codes.long())
    assert pack(signed, bits).numpy().tobytes().hex() == WIDE[bits]  # bits beyond the width are not a neighbour's


@pytest.mark.parametrize("bits", range(1, 17))
def test_the_table_of_bytes(bits):
    codes = [(5 * i + 1) % 2**bits for i in range(11)]
    assert pack(torch.tensor(codes), bits).numpy().tobytes().hex() == BYTES[bits]
    assert stream(codes, bits) == list(bytes.fromhex(BYTES[bits]))


def test_the_first_of_two_4_bit_codes_is_in_the_low_nibble():
    assert pack(torch.tensor([0x3, 0xA]), 4).tolist() == [0xA3]


def test_a_code_across_a_byte():
    """Three bits: 0b101, 0b110, 0b011 fill 9 bits; the third crosses into the second byte."""
    assert pack(torch.tensor([0b101, 0b110, 0b011]), 3).tolist() == [0b11_110_101, 0b0]
    assert pack(torch.tensor([0b101, 0b110, 0b111]), 3).tolist() == [0b11_110_101, 0b1]


def test_the_order_is_that_of_rows():
    codes = torch.arange(12).reshape(3, 4)
    assert torch.equal(pack(codes, 4), pack(codes.flatten(), 4))
    assert torch.equal(pack(codes.mT, 4), pack(codes.mT.contiguous().flatten(), 4))


def test_packing_copies():
    for bits in (4, 8):
        codes = torch.zeros(8, dtype=torch.uint8)
        data = pack(codes, bits)
        codes += 1
        assert data.tolist() == [0] * bits
        back = unpack(data, bits, 8)
        data += 1
        assert back.tolist() == [0] * 8


@pytest.mark.parametrize("bits", [0, 33, -1])
def test_other_widths_are_refused(bits):
    with pytest.raises(ShapeError, match=f"codes of {bits} bits cannot be packed; widths are 1 to 32"):
        pack(torch.zeros(4, dtype=torch.uint8), bits)


@pytest.mark.parametrize("nbytes", [0, 4, 6])
def test_a_wrong_number_of_bytes_is_refused(nbytes):
    with pytest.raises(CheckpointError, match=rf"13 codes of 3 bits take 5 bytes \(uint8\), got {nbytes} of torch.uint8"):
        unpack(torch.zeros(nbytes, dtype=torch.uint8), 3, 13)


def test_another_dtype_is_refused():
    with pytest.raises(CheckpointError, match=r"8 codes of 4 bits take 4 bytes \(uint8\), got 4 of torch.int8"):
        unpack(torch.zeros(4, dtype=torch.int8), 4, 8)
