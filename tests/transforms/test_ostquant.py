"""OSTQuant: matrices stay orthogonal, scales positive, and learning both costs less than one, which costs less than a fixed rotation."""

import pytest
import torch

from lowbit.errors import DataError
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.transforms.loss import output_loss
from lowbit.transforms.ostquant import OSTQuant
from lowbit.transforms.transform import Edge, Scaled, transform


@pytest.fixture(scope="module")
def edge():
    """Correlated channels of very different sizes, with a common offset, which a Hadamard matrix collects in one channel."""
    draw = torch.Generator().manual_seed(1)
    X = torch.randn(512, 128, generator=draw) @ torch.randn(128, 128, generator=draw) / 128**0.5
    X = X * torch.logspace(-1, 1, 128)[torch.randperm(128, generator=draw)] + 3
    weights = torch.randn(96, 128, generator=draw)
    return Edge("e", (weights,), (quantizer("int4 g64"),), quantizer("int4 row")), X[:256], X[256:]


def test_learning_scales_and_rotations_costs_least(edge):
    """The order that the paper states: O and S < O < Hadamard, on rows that were not seen."""
    made, rows, held_out = edge
    specs = ("ostquant", "ostquant:scales=false", "ostquant:iterations=0")
    changes = [transform(s).fit(made, {"rows": rows}, Key()) for s in specs]
    both, rotation, hadamard, none = (output_loss(made, held_out, c) for c in (*changes, Scaled(torch.ones(128))))
    assert both < 0.85 * none
    assert both < 0.85 * rotation
    assert rotation < 0.98 * hadamard


def test_without_scales_every_block_is_orthogonal(edge):
    made, rows, _ = edge
    change = OSTQuant(scales=False).fit(made, {"rows": rows}, Key())
    torch.testing.assert_close(change.forth @ change.forth.mT, torch.eye(64).repeat(2, 1, 1), atol=1e-5, rtol=0)
    assert not torch.equal(change.forth[0], change.forth[1])


def test_with_scales_rows_are_those_of_an_orthogonal_matrix_over_them(edge):
    made, rows, _ = edge
    change = OSTQuant().fit(made, {"rows": rows}, Key())
    G = change.forth @ change.forth.mT  # diag(1 / s^2)
    torch.testing.assert_close(G, torch.diag_embed(G.diagonal(dim1=1, dim2=2)), atol=1e-4, rtol=0)
    assert float(G.diagonal(dim1=1, dim2=2).std()) > 0.01


def test_womi_is_the_eigenbasis_of_the_weights_turned(edge):
    """In it all channels of the weights have the same power: eigenvalues, averaged by a Hadamard matrix."""
    made, _, _ = edge
    O = OSTQuant(start="womi").first(made)  # noqa: E741
    turned = torch.einsum("rkn,knm->rkm", made.weights[0].double().unflatten(1, (2, 64)), O)
    power = turned.square().sum(0)
    torch.testing.assert_close(power, power.mean(1, keepdim=True).expand_as(power))
    torch.testing.assert_close(O @ O.mT, torch.eye(64, dtype=torch.float64).repeat(2, 1, 1))


def test_a_start_that_is_not_known():
    with pytest.raises(DataError, match="ostquant:start=random: it is womi, hadamard or identity"):
        OSTQuant(start="random")
