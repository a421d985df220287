"""What scalings share, and that the checks catch one that breaks the contract."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from lowbit.scaling.absmax import absmax
from lowbit.scaling.scaling import Affine, Rule, amax, divided, finite_or_nan, fixed_sum
from lowbit.testing.scalings import check_scaling


@dataclass(frozen=True)
class Three(Rule):
    name: ClassVar[str] = "three"
    first: float = 1.0
    second: int = 2
    third: float | None = None


@pytest.mark.parametrize(
    "rule, text",
    [
        (Three(), "three"),
        (Three(0.5), "three:0.5"),
        (Three(0.5, 3), "three:0.5:3"),
        (Three(second=3), "three:second=3"),
        (Three(0.5, 2, 1e-30), "three:0.5:third=1e-30"),
        (Three(0.1234567891), "three:0.1234567891"),
    ],
)
def test_a_rule_prints_what_differs_from_the_defaults(rule, text):
    assert str(rule) == text


def test_amax():
    blocks = torch.tensor([[1.0, -3.0], [0.0, -0.0], [torch.nan, 1.0], [-torch.inf, 1.0]])
    assert amax(blocks).tolist()[:2] == [3.0, 0.0] and bool(amax(blocks)[2:].isnan().all())
    assert amax(torch.zeros(2, 0)).tolist() == [0.0, 0.0]
    assert finite_or_nan(torch.tensor([1.0, torch.inf])).isnan().tolist() == [False, True]


@pytest.mark.parametrize("elements", [1, 2, 3, 16, 33, 1000])
def test_the_maximum_of_zeros_is_not_minus_zero(elements):
    """-0 would be another code of a stored scale; of 0 and -0 torch takes either for the maximum."""
    signs = torch.randint(0, 2, (64, elements), generator=torch.Generator().manual_seed(0))
    for blocks in (torch.zeros(64, elements), -torch.zeros(64, elements), torch.where(signs > 0, -0.0, 0.0)):
        assert not torch.signbit(amax(blocks)).any() and not torch.signbit(divided(-blocks.abs(), 6.0)).any()


def test_divided_keeps_nan_and_holds_the_rest_to_float32():
    got = divided(torch.tensor([3e38, torch.nan, 0.0, 1.0]), 0.1)
    assert got.tolist()[0] == torch.finfo(torch.float32).max and got.isnan().tolist() == [False, True, False, False]
    assert got[3].item() == np.float32(1) / np.float32(0.1)


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 50_000, 1024 * 1024 + 3])
def test_fixed_sum_is_the_sum(count):
    x = torch.randn(count, generator=torch.Generator().manual_seed(count))
    assert fixed_sum(x).item() == pytest.approx(float(np.sum(x.numpy().astype(np.float64))), rel=1e-12, abs=1e-12)
    assert fixed_sum(x.reshape(1, -1)).dtype == torch.float64


def test_the_order_of_a_sum():
    """Halves are added: of 4 numbers the first and third, the second and fourth. Neighbours, or one after another, give 0 or 1."""
    large = 2.0**60
    assert fixed_sum(torch.tensor([large, 1.0, -large, 1.0], dtype=torch.float64)).item() == 2
    padded = torch.tensor([large, 1.0, 3.0, 5.0, -large, 1.0], dtype=torch.float64)  # to 8: the fifth meets the first
    assert fixed_sum(padded).item() == 10
    pieces = torch.zeros(3, 1024, dtype=torch.float64)
    pieces[0, 7], pieces[1, 7], pieces[2, 7] = large, 1.0, -large  # pieces are summed alone; their sums are folded: 3 fill up to 4
    assert fixed_sum(pieces.reshape(-1)).item() == 1


def negative(blocks, fmt, importance=None):
    return Affine(-amax(blocks) / fmt.top)


def forgetful(blocks, fmt, importance=None):
    return Affine(blocks.abs().nan_to_num(0.0, 0.0, 0.0).amax(-1) / fmt.top)


def global_(blocks, fmt, importance=None):
    return Affine(amax(blocks).amax().expand(blocks.shape[:-1]) / fmt.top)


def squares(blocks, fmt, importance=None):
    return Affine(finite_or_nan(blocks.square().mean(-1).sqrt()))


@pytest.mark.parametrize(
    "scaling, message",
    [
        (negative, "on random blocks: scale is -"),
        (forgetful, "nan in block 2 gives NaN scales in \\[\\]"),
        (global_, "nan in block 2 gives NaN scales in \\[0, 1, 2, 3, 4, 5\\]"),
        (squares, "on huge blocks: scale holds nan"),
    ],
)
def test_the_checks_find(scaling, message):
    with pytest.raises(AssertionError, match=message):
        check_scaling(scaling)


def test_the_checks_accept_a_users_own():
    check_scaling(lambda blocks, fmt, importance=None: absmax(blocks * 0.5, fmt))
