"""A block that is run again and again gives what running it anew gives, and runs each part once after its last change."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from lowbit.nn.replay import Replay, available_bytes


class Counted(nn.Linear):
    """Counts its runs."""

    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return super().forward(x)


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Counted(4, 4), Counted(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch, self.last, self.twice = Branch(), Counted(4, 4), Counted(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.branch(x)
        return self.last(self.twice(self.twice(x)))


ORDER = ("branch.first", "branch.second", "twice", "last")


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block()


@torch.no_grad()
def change(block: Block, name: str) -> None:
    block.get_submodule(name).weight.mul_(0.5)  # type: ignore[operator, union-attr]


def runs(block: Block) -> Counter[str]:
    return Counter({name: block.get_submodule(name).runs for name in ORDER})  # type: ignore[misc]


@pytest.mark.parametrize("room", [1 << 20, 200, 0])
@torch.no_grad()
def test_every_pass_gives_what_a_fresh_run_gives(block: Block, room: int) -> None:
    samples = [torch.randn(2, 4) for _ in range(3)]
    replay = Replay(block, ORDER, room)
    for name in ORDER:
        change(block, name)
        replay.settle([name])
        for i, x in enumerate(samples):
            with replay.sample(i):
                got = block(x)
            assert torch.equal(got, block(x))
    assert replay.nbytes <= room


@torch.no_grad()
def test_a_settled_part_runs_once_a_sample(block: Block) -> None:
    x = torch.randn(2, 4)
    replay = Replay(block, ORDER, 1 << 20)
    for name in ORDER:
        change(block, name)
        replay.settle([name])
        with replay.sample(0):
            block(x)
    # before it is settled a part runs in every pass
    assert runs(block) == {"branch.first": 1, "branch.second": 2, "twice": 2 * 3, "last": 4}


@torch.no_grad()
def test_results_inside_a_settled_part_are_dropped(block: Block) -> None:
    replay = Replay(block, ORDER, 1 << 20)
    replay.settle(["branch.first"])
    with replay.sample(0):
        block(torch.randn(2, 4))
    assert {name for _, name, _ in replay.kept} == {"branch.first"}
    replay.settle(["branch.second"])
    with replay.sample(0):
        block(torch.randn(2, 4))
    assert {name for _, name, _ in replay.kept} == {"branch"} and replay.nbytes == 2 * 4 * 4


@torch.no_grad()
def test_a_result_that_somebody_worked_on_is_not_given_again(block: Block) -> None:
    x = torch.randn(2, 4)
    replay = Replay(block, ORDER, 1 << 20)
    replay.settle(["branch.first", "branch.second"])
    with replay.sample(0):
        first = block.branch(x)
        expected = first.clone()
        first.add_(1)
        assert torch.equal(block.branch(x), expected)


@torch.no_grad()
def test_a_change_out_of_order_needs_forgetting(block: Block) -> None:
    x = torch.randn(2, 4)
    replay = Replay(block, ORDER, 1 << 20)
    replay.settle(ORDER)
    with replay.sample(0):
        block(x)
    change(block, "branch.first")
    replay.forget()
    assert replay.nbytes == 0
    with replay.sample(0):
        got = block(x)
    assert torch.equal(got, block(x))


def test_forwards_are_put_back(block: Block) -> None:
    replay = Replay(block, [], 1 << 20)
    with pytest.raises(RuntimeError), replay.sample(0):
        block(torch.randn(2, 5))
    assert all("forward" not in vars(m) for m in block.modules())


def test_available_memory_is_a_number_of_bytes() -> None:
    assert available_bytes() >= 0
