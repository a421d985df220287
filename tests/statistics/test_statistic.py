"""What every registered statistic owes: merging is going on, other statistics stay as they are, emptiness is an error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lowbit import catalog
from lowbit.errors import DataError
from lowbit.statistics.statistic import Statistic

NAMES = [e.name for e in catalog.entries("statistic")]


def fed(name: str, parts: list[tuple[Tensor, Tensor]]) -> Statistic:
    statistic: Statistic = catalog.find("statistic", name)()
    for x, reference in parts:
        statistic.update(x, reference=reference)
    return statistic


@pytest.fixture
def parts() -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(9, 6, generator=g) * (i + 1), torch.randn(9, 6, generator=g)) for i in range(4)]


@pytest.mark.parametrize("name", NAMES)
def test_merging_is_going_on(name: str, parts: list[tuple[Tensor, Tensor]]) -> None:
    whole, first, second, empty = fed(name, parts), fed(name, parts[:1]), fed(name, parts[1:]), fed(name, [])
    kept = second.value().clone()
    empty.merge(first)
    empty.merge(second)
    empty.merge(fed(name, []))
    torch.testing.assert_close(empty.value(), whole.value(), rtol=1e-12, atol=1e-12)
    empty.update(parts[0][0], reference=parts[0][1])
    assert torch.equal(second.value(), kept), "the other one has changed"
    torch.testing.assert_close(first.value(), fed(name, parts[:1]).value(), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_left_as_they_are(name: str, parts: list[tuple[Tensor, Tensor]]) -> None:
    copies = [(x.clone(), r.clone()) for x, r in parts]
    fed(name, parts)
    assert all(torch.equal(x, a) and torch.equal(r, b) for (x, r), (a, b) in zip(parts, copies, strict=True))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "histogram"])
def test_emptiness_is_an_error(name: str) -> None:
    with pytest.raises(DataError, match="no calibration data has reached this layer"):
        fed(name, []).value()
