"""Learning matrices on an edge: it lowers the error on rows it has not seen, is repeatable, and keeps matrices that can be inverted."""

import pytest
import torch

from lowbit.errors import DataError
from lowbit.quantizers.spec import quantizer
from lowbit.transforms.learned import Pair, blockwise, check, conditioned, orthogonal, train
from lowbit.transforms.transform import Edge


@pytest.fixture
def edge():
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(64, 32, generator=draw) * torch.linspace(0.1, 4, 32)
    return Edge("e", (torch.randn(16, 32, generator=draw),), (quantizer("int4 g16"),), quantizer("int4 row")), X


def scales(parameters):
    """A diagonal matrix as one block."""
    s = parameters[0].exp()
    return Pair(torch.diag(1 / s)[None], torch.diag(s)[None])


def loss(edge, X, pair):
    """By hand, on dense matrices."""
    W, T, back = edge.weights[0], torch.block_diag(*pair.forth).float(), torch.block_diag(*pair.back).float()
    Q = edge.quantizers[0].quantize(W @ back.mT).dequantize()
    return float((edge.activations.quantize(X @ T).dequantize() @ Q.mT - X @ W.mT).square().sum())


def test_a_block_diagonal_product():
    T, x = torch.randn(3, 4, 4), torch.randn(5, 12)
    torch.testing.assert_close(blockwise(x, T), x @ torch.block_diag(*T))


def test_scales_that_are_learned_help_rows_that_were_not_seen(edge):
    edge, X = edge
    start = [torch.zeros(32)]
    found = train(edge, X, start, scales, 60, [0.05])
    unseen = X[3::4]
    assert loss(edge, unseen, scales(found)) < 0.8 * loss(edge, unseen, scales(start))
    again = train(edge, X, start, scales, 60, [0.05])
    assert torch.equal(found[0], again[0])
    assert torch.equal(start[0], torch.zeros(32))


def test_the_best_step_is_kept(edge):
    """Steps that are far too long end worse than the start, which then stays."""
    edge, X = edge
    found = train(edge, X, [torch.zeros(32)], scales, 3, [50.0])
    assert torch.equal(found[0], torch.zeros(32, dtype=torch.float64))


def test_no_data_is_nothing_to_learn(edge):
    edge, X = edge
    assert train(edge, X * 0, [torch.zeros(32)], scales, 3, [0.1]) is None


def test_conditions():
    assert conditioned(torch.diag(torch.tensor([1.0, 50.0]))[None])
    assert not conditioned(torch.stack((torch.eye(2), torch.diag(torch.tensor([1.0, 1e-3])))))
    assert torch.equal(orthogonal("identity", 3), torch.eye(3, dtype=torch.float64))
    assert float(orthogonal("hadamard", 4).abs().min()) == 0.5
    with pytest.raises(DataError, match="batquant:size=0:iterations=1:rate=0.1: the size is 1 or more"):
        check("batquant", 0, 1, 0.1)
