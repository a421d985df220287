"""NF4 with double quantization, step by step in numpy, and its bytes."""

import numpy as np
import pytest
import torch

from lowbit.formats.dynamic_tree import dynamic8
from lowbit.formats.normal_float import nf4 as element
from lowbit.quantizers.normal_float import nf4, nf4_single
from lowbit.testing.quantizers import sample

pytestmark = pytest.mark.usefixtures("every_backend")


def nearest(values, y):
    """The code of the nearest value; no value is met halfway by these numbers."""
    return np.abs(y[..., None].astype(np.float64) - np.array(values)).argmin(-1)


def test_double_quantization_is_that_of_qlora():
    """Blocks of 64 over the flat tensor; their maxima less their mean in the 8-bit dynamic type, in blocks of 256."""
    x = sample((37, 1024)).numpy()
    blocks = x.reshape(-1, 64)
    largest = np.abs(blocks).max(-1)
    mean = np.float32(largest.astype(np.float64).mean())
    centred = np.pad(largest - mean, (0, -len(largest) % 256)).reshape(-1, 256)
    outer = np.abs(centred).max(-1, keepdims=True)
    codes = nearest(dynamic8.values, centred / outer)
    stored = (np.array(dynamic8.values, dtype=np.float32)[codes] * outer).reshape(-1)[: len(largest)] + mean
    q = nf4.quantize(torch.from_numpy(x))
    assert np.array_equal(q.grid.scale.dequantize().numpy(), stored)
    numbers = np.array(element.values, dtype=np.float32)
    want = numbers[nearest(element.values, blocks / stored[:, None])] * stored[:, None]
    assert np.array_equal(q.dequantize().numpy().reshape(-1, 64), want)


def test_bytes():
    """4 bits a number, 8 bits a block of 64, 4 bytes for 256 of those, 4 bytes for the mean: 4.127 bits in the paper."""
    assert nf4.nbytes((1024, 1024)) == 2**19 + 2**14 + 4 * 2**6 + 4
    assert 8 * nf4.nbytes((1024, 1024)) / 2**20 == pytest.approx(4.127, abs=1e-3)
    assert nf4_single.nbytes((1024, 1024)) == 2**19 + 4 * 2**14


def test_double_quantization_costs_little():
    x = sample((64, 1024))
    errors = [(q.quantize(x).dequantize() - x).square().sum().item() for q in (nf4_single, nf4)]
    assert 1.0 < errors[1] / errors[0] < 1.05


def test_blocks_cross_rows_and_the_last_one_may_be_short():
    x = sample((3, 50))
    q = nf4_single.quantize(x)
    assert q.grid.scale.tolist() == [part.abs().max().item() for part in x.flatten().split(64)]
