"""Blocks of random fields come back from their bytes, whatever the type."""

import pytest
import torch

from lowbit.quantizers.ggml_bytes import LAYOUTS, join, split


@pytest.mark.parametrize("name", LAYOUTS)
def test_fields_come_back(name):
    g = torch.Generator().manual_seed(0)
    data = torch.randint(0, 243 if name == "tq1_0" else 256, (20, LAYOUTS[name].nbytes), generator=g, dtype=torch.uint8)
    fields = split(name, data)
    again = split(name, join(name, fields))
    assert fields.keys() == again.keys() and all(torch.equal(fields[k], again[k]) for k in fields)
    assert join(name, fields).shape == data.shape and fields["codes"].shape == (20, LAYOUTS[name].elements)


def test_the_scales_of_q4_k_are_where_ggml_has_them():
    scales, minima = torch.arange(8).unsqueeze(0) * 9, torch.arange(8).unsqueeze(0) * 8 + 1
    fields = {"codes": torch.zeros(1, 256), "sc": scales, "mn": minima, "d": torch.tensor([0x1234]), "m": torch.tensor([0xABCD])}
    block = join("q4_k", fields)[0].tolist()
    assert block[:4] == [0x34, 0x12, 0xCD, 0xAB]
    assert [b & 63 for b in block[4:12]] == [0, 9, 18, 27, 1, 9, 17, 25]
    assert [(b & 15) + (a >> 2 & 48) for a, b in zip(block[4:8], block[12:16], strict=True)] == [36, 45, 54, 63]
    assert [(b >> 4) + (a >> 2 & 48) for a, b in zip(block[8:12], block[12:16], strict=True)] == [33, 41, 49, 57]
