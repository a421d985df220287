"""ggml's block types against the gguf package: decoding of random bytes bit for bit, encoding byte for byte where it encodes."""

import numpy as np
import pytest
import torch

from lowbit.errors import CheckpointError, ShapeError
from lowbit.quantizers.ggml import TYPES

gguf = pytest.importorskip("gguf")
quants = pytest.importorskip("gguf.quants")
SIZES = {name: gguf.constants.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name.upper()]] for name in TYPES}


def kind(name):
    return gguf.GGMLQuantizationType[name.upper()]


def random_bytes(name, rows=48, blocks=3):
    data = np.random.default_rng(0).integers(0, 256, (rows, blocks * SIZES[name][1]), dtype=np.uint8)
    if name == "mxfp4":  # the scale code 255 is NaN here
        data.reshape(-1, 17)[:, 0] = np.minimum(data.reshape(-1, 17)[:, 0], 254)
    return data


@pytest.mark.parametrize("name", TYPES)
def test_decoding_random_bytes(name):
    data = random_bytes(name)
    with np.errstate(all="ignore"):
        want = quants.dequantize(data, kind(name))
    q = TYPES[name].read(torch.from_numpy(data), want.shape)
    got = q.dequantize().numpy()
    same = (got.view(np.int32) == want.view(np.int32)) | (np.isnan(got) & np.isnan(want))
    assert same.all()
    assert TYPES[name].nbytes(want.shape) == data.nbytes
    if name != "tq1_0":  # several bytes stand for the same five trits there
        assert np.array_equal(q.packed()["blocks"].numpy(), data)


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq1_0", "tq2_0", "mxfp4"])
def test_encoding_is_ggmls(name):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((64, 512), dtype=np.float32) * 2.0 ** rng.integers(-6, 7, (64, 1)).astype(np.float32)
    x[0], x[1], x[2] = 0, np.round(4 * rng.standard_normal(512)) + 0.0, -np.abs(x[2])  # zeros, ties, one sign
    got = TYPES[name].quantize(torch.from_numpy(x)).packed()["blocks"].numpy()
    assert np.array_equal(got, quants.quantize(x, kind(name)))


@pytest.mark.parametrize(
    ("name", "error"), [("q2_k", 0.075), ("q3_k", 0.0215), ("q4_k", 0.0053), ("q5_k", 0.0013), ("q6_k", 0.00032), ("iq4_nl", 0.0057)]
)
def test_searched_types_are_good_on_normal_data(name, error):
    """The bounds lie 3 % above what is found; q4_k is well below q4_0 (0.0074), q5_k below q5_0 (0.0018)."""
    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    y = TYPES[name].quantize(x).dequantize()
    assert ((y - x).square().mean() / x.square().mean()).item() < error


def test_importance_moves_the_error():
    x = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    weight = torch.where(torch.arange(256) % 4 == 0, 100.0, 1.0).expand_as(x)
    plain, weighted = (TYPES["q4_k"].quantize(x, importance).dequantize() for importance in (None, weight))
    assert (weight * (weighted - x).square()).sum() < 0.9 * (weight * (plain - x).square()).sum()


def test_bad_sizes_are_named():
    with pytest.raises(ShapeError, match="not a multiple of the block 256"):
        TYPES["q4_k"].quantize(torch.zeros(2, 128))
    with pytest.raises(CheckpointError, match=r"q4_k of shape \(1, 256\) takes 144 bytes"):
        TYPES["q4_k"].read(torch.zeros(143, dtype=torch.uint8), (1, 256))
