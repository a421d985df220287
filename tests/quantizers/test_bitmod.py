"""BitMoD's figures: relative squared error on normal and t(5) groups of 128, and the choice of a special number."""

import pytest
import torch

from lowbit.quantizers.bitmod import bitmod3, bitmod4

stats = pytest.importorskip("scipy.stats")


def relative_error(q, x):
    return ((q.quantize(x).dequantize() - x).square().mean() / x.square().mean()).item()


def test_figures_of_the_record():
    x = torch.randn(4000, 128, generator=torch.Generator().manual_seed(0))
    assert relative_error(bitmod4, x) == pytest.approx(0.0096, rel=0.01)
    assert relative_error(bitmod3, x) == pytest.approx(0.0381, rel=0.01)
    t5 = torch.from_numpy(stats.t(5).rvs((4000, 128), random_state=0)).float()
    assert relative_error(bitmod4, t5) == pytest.approx(0.0117, rel=0.05)


def test_each_group_takes_the_best_of_four():
    x = torch.zeros(4, 128)
    x[:, 0], x[:, 1] = torch.tensor([6.0, 6.0, 8.0, -8.0]), torch.tensor([5.0, -5.0, 6.0, -6.0])
    q = bitmod4.quantize(x)
    assert q.grid.table.flatten().tolist() == [0, 1, 2, 3] and torch.equal(q.dequantize(), x)
    assert bitmod4.nbytes((4, 128)) == 4 * 64 + 4 * 2 + 1
