"""Embedding: rows of the dequantized table in the dtype of the table."""

import pytest
import torch
from torch import nn

import lowbit
from lowbit.errors import UnknownName


@pytest.fixture
def table():
    torch.manual_seed(0)
    return nn.Embedding(10, 64, padding_idx=3)


def quantized(table, spec="int4 g32"):
    return lowbit.quantize(nn.Sequential(table), spec, only=["Embedding"])[0]


def test_rows_are_those_of_the_dequantized_table(table):
    index = torch.tensor([[3, 0], [9, 9]])
    rows = lowbit.fake_quantize(table.weight.detach(), "int4 g32")[index]
    packed = quantized(table)
    assert type(packed).__module__.startswith("lowbit.")
    assert torch.equal(packed(index), rows)
    assert (packed.num_embeddings, packed.embedding_dim, packed.padding_idx) == (10, 64, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_have_the_dtype_of_the_table(table, dtype):
    table = table.to(dtype)
    rows = lowbit.fake_quantize(table.weight.detach().float(), "int4 g32")[2].to(dtype)
    assert torch.equal(quantized(table)(torch.tensor(2)), rows)


def test_the_dtype_follows_a_conversion(table):
    packed = quantized(table)
    assert packed.bfloat16()(torch.tensor([1])).dtype == packed.dtype == torch.bfloat16
    assert "result" not in packed.state_dict()


def test_a_scaled_table_is_scaled_after_the_look_up(table):
    gemma = pytest.importorskip("transformers.models.gemma3.modeling_gemma3")
    for dtype in (torch.float32, torch.bfloat16):
        scaled = gemma.Gemma3TextScaledWordEmbedding(10, 64, 0, embed_scale=8.0625001).to(dtype)
        expected = lowbit.fake_quantize(scaled.weight.detach().float(), "int8")
        factor = torch.tensor(8.0625001).to(dtype)  # what the model's own code multiplies with
        index = torch.arange(10)
        assert torch.equal(quantized(scaled, "int8")(index), (expected * factor.float()).to(dtype))


def test_a_table_that_changes_its_rows_is_left_alone():
    with pytest.raises(UnknownName, match="0 cannot be quantized: it changes its own rows"):
        quantized(nn.Embedding(10, 64, max_norm=1.0))
