"""Kinds of changes against dense matrices; specs of transforms."""

import pytest
import torch

from lowbit.errors import DataError, ShapeError, SpecError, UnknownName, UnsupportedError
from lowbit.transforms.hadamard import Hadamard
from lowbit.transforms.transform import Blockwise, Edge, Scaled, text, transform


def matrices(count: int, n: int) -> torch.Tensor:
    return torch.randn(count, n, n, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(n)


def test_scaled_is_the_formula():
    change = Scaled(torch.tensor([2.0, 0.5]), torch.tensor([1.0, -1.0]))
    assert torch.equal(change.online(torch.tensor([[3.0, 1.0]])), torch.tensor([[1.0, 4.0]]))
    W, b = change.consumer(torch.tensor([[1.0, 10.0]]), None)
    assert torch.equal(W, torch.tensor([[2.0, 5.0]]))
    assert torch.equal(b, torch.tensor([1.0 - 10.0]))


def test_the_producer_of_a_scaled_change_gives_the_changed_numbers():
    change = Scaled(torch.tensor([2.0, 0.5, 4.0]), torch.tensor([1.0, -1.0, 0.0]))
    W, b, x = torch.randn(3, 5), torch.randn(3), torch.randn(7, 5)
    P, c = change.producer(W, b)
    torch.testing.assert_close(x @ P.mT + c, change.online(x @ W.mT + b))
    P, c = change.producer(W, None)
    torch.testing.assert_close(x @ P.mT + c, change.online(x @ W.mT))


@pytest.mark.parametrize("count", [1, 3])
def test_blockwise_is_a_block_diagonal_matrix(count):
    T = matrices(count, 4)
    change = Blockwise(T, torch.linalg.inv(T))
    dense = torch.block_diag(*(T if count == 3 else [T[0]] * 3))
    x, W = torch.randn(6, 12), torch.randn(5, 12)
    torch.testing.assert_close(change.online(x), x @ dense)
    W2, b2 = change.consumer(W, torch.ones(5))
    torch.testing.assert_close(change.online(x) @ W2.mT + b2, x @ W.mT + 1, rtol=1e-4, atol=1e-4)
    P, c = change.producer(W.mT.contiguous(), torch.ones(12))
    z = torch.randn(2, 5)
    torch.testing.assert_close(z @ P.mT + c, change.online(z @ W + 1), rtol=1e-4, atol=1e-4)
    with pytest.raises(ShapeError, match=rf"10 channels in {count} blocks of 4"):
        change.online(torch.randn(10))


def test_channels_of_one_source_share_a_geometric_mean():
    edge = Edge("e", (torch.ones(1, 4),), (), classes=torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(edge.shared(torch.tensor([1.0, 2.0, 4.0, 8.0])), torch.tensor([2.0, 4.0, 2.0, 4.0]))
    assert Scaled(torch.tensor([2.0, 4.0, 2.0, 4.0])).acts_within(edge.classes)
    assert not Scaled(torch.tensor([2.0, 4.0, 2.0, 5.0])).acts_within(edge.classes)
    there = Scaled(torch.tensor([2.0, 4.0, 2.0, 4.0])).at_producer(edge.classes, 3)
    assert there.scale.tolist() == [2.0, 4.0, 1.0]


def test_a_mixing_change_needs_whole_blocks_of_its_source():
    change = Blockwise.orthogonal(torch.eye(2)[None])
    assert change.acts_within(torch.tensor([2, 3, 0, 1, 0, 1]))
    assert not change.acts_within(torch.tensor([1, 2, 3, 4]))
    assert not change.acts_within(torch.tensor([1, 0]))
    assert not Blockwise.orthogonal(torch.eye(2).repeat(2, 1, 1)).acts_within(torch.arange(4))


@pytest.mark.parametrize("spec", ["smoothquant", "smoothquant:alpha=0.8:edges=all", "hadamard:size=64", "quarot:size=32", "fptq:low=1.0"])
def test_specs_parse_and_print_back(spec):
    assert text(transform(spec)) == spec


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("smoothqant", UnknownName, "no transform is called 'smoothqant'; did you mean 'smoothquant'"),
        ("smoothquant:beta=1", SpecError, "transform smoothquant has no parameter 'beta=1'; write name=value with alpha, edges"),
        ("smoothquant:alpha=2", DataError, "alpha is in"),
        ("hadamard:edges=outer", DataError, "edges are all or inner"),
        ("awq:grid=0", DataError, "take 1 candidate or more"),
        ("fptq:low=5:high=5", DataError, "0 <= low < high"),
        ("llm_fp4:exponent_bits=0", DataError, "1 to 8 exponent bits"),
    ],
)
def test_what_does_not_parse_is_named(spec, error, message):
    with pytest.raises(error, match=message):
        transform(spec)


def test_a_kind_that_no_layer_absorbs_says_so():
    class Odd(Scaled, kind="odd"):
        producer = Scaled.__mro__[1].producer

    with pytest.raises(UnsupportedError, match="an? odd change is not absorbed"):
        Odd(torch.ones(2)).producer(torch.ones(2, 2), None)
    assert transform(Hadamard(64)) == Hadamard(64)
