"""FP8: the cast of torch under one float32 scale a row or a tile."""

import pytest
import torch

from lowbit.quantizers.fp8 import fp8, fp8_e5m2, fp8_tile
from lowbit.testing.quantizers import sample

pytestmark = pytest.mark.usefixtures("every_backend")


@pytest.mark.parametrize("quantizer, dtype", [(fp8, torch.float8_e4m3fn), (fp8_e5m2, torch.float8_e5m2)])
def test_it_is_the_cast_of_torch(quantizer, dtype):
    x = sample((16, 256))
    scale = x.abs().amax(-1, keepdim=True) / torch.finfo(dtype).max
    y = (x / scale).clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
    q = quantizer.quantize(x)
    assert torch.equal(q.codes, y.view(torch.uint8)) and torch.equal(q.grid.scale, scale)
    assert torch.equal(q.dequantize(), y.float() * scale)


def test_tiles_may_be_cut_off_at_the_edge():
    x = sample((200, 300))
    q = fp8_tile.quantize(x)
    assert tuple(q.grid.scale.shape) == (2, 3)
    assert q.grid.scale[1, 2] == x[128:, 256:].abs().max() / 448
    corner = x[128:, 256:]
    want = (corner / q.grid.scale[1, 2]).to(torch.float8_e4m3fn)
    assert torch.equal(q.codes[128:, 256:], want.view(torch.uint8))
    assert fp8_tile.nbytes((200, 300)) == 200 * 300 + 6 * 4


def test_one_scale_for_any_rank_of_activations():
    x = sample((2, 3, 64))
    assert torch.equal(fp8.quantize(x).codes, fp8.quantize(x.reshape(6, 64)).codes.reshape(2, 3, 64))
