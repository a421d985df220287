"""Block matrices that are learned on an edge: Adam on the error of its layers, with weights and inputs rounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lowbit.errors import DataError
from lowbit.quantizers.quantizer import Quantizer
from lowbit.threads import one_thread
from lowbit.transforms.hadamard import multiply
from lowbit.transforms.transform import Edge

Start = Literal["hadamard", "identity"]

#: matrices with a larger condition number are not kept
LARGEST_CONDITION = 100.0


class Pair(NamedTuple):
    """Matrices of blocks and their inverses, (blocks, n, n) each."""

    forth: Tensor
    back: Tensor


Build = Callable[[Sequence[Tensor]], Pair]


def train(edge: Edge, X: Tensor, start: Sequence[Tensor], build: Build, steps: int, rates: Sequence[float]) -> list[Tensor] | None:
    """The best parameters that Adam passes, from ``start`` on, in float64; None where nothing flows.

    The error is sum ||Q_w(W T^-T) Q_x(x T) - W x||^2 over the layers that read the edge, roundings being passed straight through by
    gradients. The best have the least error on every fourth row, which Adam does not see: matrices have more parameters than there are
    rows. The rates fall to zero with a cosine. The result is the same on any number of threads.

    Args:
        X: (rows, channels), of the edge.
        start: parameters.
        build: parameters -> matrices.
        rates: of Adam, one for each parameter.
    """
    with one_thread(), torch.enable_grad():
        weights = [W.detach().float() for W in edge.weights]
        targets = [X @ W.mT for W in weights]
        whole = float(sum(t.double().square().sum() for t in targets))
        if whole == 0:
            return None
        seen = torch.arange(len(X)) % 4 != 3
        unseen = ~seen if len(X) > 3 else seen
        held = [p.detach().float().clone().requires_grad_() for p in start]
        adam = torch.optim.Adam([{"params": [p], "lr": rate} for p, rate in zip(held, rates, strict=True)])
        schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda i: 0.5 + 0.5 * math.cos(math.pi * i / max(1, steps)))
        best, least = [p.detach().double() for p in start], math.inf
        for step in range(steps + 1):
            pair = build(held)
            x = _rounded(blockwise(X, pair.forth), edge.activations)
            errors = torch.zeros(len(X))
            for W, quantizer, target in zip(weights, edge.quantizers, targets, strict=True):
                errors = errors + (x @ _rounded(blockwise(W, pair.back.mT), quantizer).mT - target).square().sum(1)
            loss, judged = errors[seen].sum() / whole, float(errors[unseen].detach().sum() / whole)
            if judged < least and conditioned(pair.forth):
                best, least = [p.detach().double() for p in held], judged
            if step < steps and bool(torch.isfinite(loss)):
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                schedule.step()
        return best


def blockwise(x: Tensor, T: Tensor) -> Tensor:
    """x (..., channels) times matrices (blocks, n, n) on the diagonal."""
    return torch.einsum("...kn,knm->...km", x.unflatten(-1, (-1, T.shape[-1])), T).flatten(-2)


def conditioned(T: Tensor) -> bool:
    """Whether all matrices can be inverted without losing more than two digits."""
    values = torch.linalg.svdvals(T.detach())
    return bool((values[..., 0] <= LARGEST_CONDITION * values[..., -1]).all())


def _rounded(x: Tensor, quantizer: Quantizer | None) -> Tensor:
    if quantizer is None:
        return x
    with torch.no_grad():
        error = quantizer.quantize(x).dequantize() - x
    return x + error


def orthogonal(start: Start, n: int) -> Tensor:
    """The identity of order n, or the orthogonal Hadamard matrix, float64.

    Raises:
        ShapeError: there is no Hadamard matrix of this order.
    """
    eye = torch.eye(n, dtype=torch.float64)
    return multiply(eye, n) if start == "hadamard" else eye


def check(name: str, size: int, iterations: int, rate: float) -> None:
    """Refuse parameters that cannot be.

    Raises:
        DataError: blocks without channels, fewer than no iterations, a rate that is not above 0.
    """
    if size < 1 or iterations < 0 or not 0 < rate <= 1:
        given = f"{name}:size={size}:iterations={iterations}:rate={rate}"
        raise DataError(f"{given}: the size is 1 or more, iterations 0 or more, the rate in (0, 1]")
