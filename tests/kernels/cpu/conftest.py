"""Inputs where kernels go wrong, and the targets that run here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from lowbit.kernels.op import extension


@pytest.fixture
def cpu() -> Iterator[Any]:
    """``lowbit._cpu``; the target in use comes back after."""
    module: Any = extension("lowbit._cpu")
    if module is None:
        pytest.skip("lowbit._cpu was not built; tests/kernels/test_op.py fails for that")
    before = module.target()
    yield module
    assert module.use_target(before)


@pytest.fixture
def threads() -> Callable[[int], AbstractContextManager[None]]:
    """``with threads(3):`` computes with so many; the number from before comes back."""

    @contextmanager
    def computing(count: int) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        yield
        torch.set_num_threads(before)

    return computing


@pytest.fixture
def hard() -> Any:
    """Rows of normal numbers, of wide range, of random bits, subnormals, zeros of both signs, one NaN, one Inf, near the largest number."""

    def make(*shape: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(shape, generator=generator)
        if x.numel() == 0:
            return x
        flat = x.view(-1, shape[-1])
        bits = torch.randint(-(2**31), 2**31 - 1, flat.shape, generator=generator).int().view(torch.float32)
        wide = flat * torch.exp2(torch.randint(-60, 60, flat.shape, generator=generator).float())
        signs = torch.where(flat < 0, -0.0, 0.0)
        kinds = [
            flat.clone(),
            wide,
            bits,
            flat * 1e-40,
            signs,
            flat * 1e-3,
            flat * 8,
            flat * 1e37,
            flat * 1e-36,
            bits.nan_to_num(1.0, 2.0, -2.0),
        ]
        for i in range(len(flat)):
            flat[i] = kinds[i % len(kinds)][i]
        if len(flat) > 12:
            flat[10, 0], flat[11, -1], flat[12, 0] = float("nan"), float("-inf"), -float("nan")
        return x

    return make
