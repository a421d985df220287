"""BATQuant: the Kronecker form by hand, and the order of the methods that the paper states for blocks of 32."""

import pytest
import torch

from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.transforms.batquant import BATQuant, Kronecker
from lowbit.transforms.hadamard import Turned
from lowbit.transforms.loss import output_loss
from lowbit.transforms.transform import Blockwise, Edge, Scaled, transform


def test_the_kronecker_form_is_a_block_diagonal_matrix():
    draw = torch.Generator().manual_seed(0)
    A, B = torch.randn(4, 4, generator=draw) + 3 * torch.eye(4), torch.randn(3, 2, 2, generator=draw) + 3 * torch.eye(2)
    change = Kronecker(A, B, torch.linalg.inv(A), torch.linalg.inv(B))
    dense = torch.block_diag(*(torch.kron(b, A) for b in B))
    x, W = torch.randn(5, 24, generator=draw), torch.randn(7, 24, generator=draw)
    torch.testing.assert_close(change.online(x), x @ dense)
    torch.testing.assert_close(change.consumer(W, None)[0], W @ torch.linalg.inv(dense).mT, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(change.inverse().online(change.online(x)), x, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def edge():
    """Channels of some blocks carry far more than those of others, one of them outlies; rows to learn on and rows to judge on."""
    draw = torch.Generator().manual_seed(1)
    X = torch.randn(512, 128, generator=draw)
    X = X * torch.tensor([0.2, 1.0, 5.0, 0.5]).repeat_interleave(32)
    X = X @ (torch.eye(128) + 0.2 * torch.randn(128, 128, generator=draw) / 128**0.5)
    X[:, 70] *= 12
    weights = torch.randn(96, 128, generator=draw)
    return Edge("e", (weights,), (quantizer("mxfp4"),), quantizer("mxfp4")), X[:256], X[256:]


def error(edge, spec):
    made, rows, held_out = edge
    change = transform(spec).fit(made, {"rows": rows}, Key()) if isinstance(spec, str) else spec
    return output_loss(made, held_out, change)


def test_learned_blocks_beat_fixed_ones_and_those_beat_none(edge):
    """MXFP4, inputs and weights. The Kronecker form comes within 10 % of full matrices with a small part of their numbers."""
    none, hadamard = error(edge, Scaled(torch.ones(128))), error(edge, Turned.of(128, 32, Key()))
    kronecker, full = error(edge, "batquant"), error(edge, "batquant:shared=0")
    assert kronecker < 0.95 * hadamard < 0.95 * none
    assert kronecker < 1.1 * full
    numbers = lambda change: sum(p.numel() for p in change.parts().values())  # noqa: E731
    small, large = (BATQuant(shared=shared, iterations=0).fit(edge[0], {"rows": edge[1]}, Key()) for shared in (8, 0))
    assert isinstance(small, Kronecker) and isinstance(large, Blockwise)
    assert numbers(large) / numbers(small) == 4 * 32**2 / (8**2 + 4 * 4**2)


def test_no_steps_leave_a_hadamard_matrix_or_nothing(edge):
    made, rows, _ = edge
    change = BATQuant(iterations=0).fit(made, {"rows": rows}, Key())
    x = torch.zeros(128)
    x[40] = 32**0.5
    assert change.online(x).abs().tolist() == pytest.approx([0.0] * 32 + [1.0] * 32 + [0.0] * 64)
    same = BATQuant(iterations=0, start="identity").fit(made, {"rows": rows}, Key())
    assert torch.equal(same.online(rows), rows)


def test_blocks_take_the_largest_divisor():
    edge = Edge("e", (torch.randn(4, 48),), (quantizer("int4 g16"),))
    change = BATQuant(iterations=0).fit(edge, {"rows": torch.randn(8, 48)}, Key())
    assert change.own.shape == (3, 2, 2) and change.shared.shape == (8, 8)
