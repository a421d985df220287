"""The contract of transforms, on edges with outliers, dead channels and channels that can only change alike."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit import catalog
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.transforms.transform import KINDS, Change, Edge, StreamTransform, Transform, text
from lowbit.transforms.transform import transform as parse

CHANNELS = 64


def edges() -> list[tuple[Edge, Tensor]]:
    """Edges of 64 channels and what flows through them, (tokens, 64)."""
    draw = torch.Generator().manual_seed(5)
    X = torch.randn(96, CHANNELS, generator=draw) * torch.linspace(0.2, 3, CHANNELS)
    X[:, 7] = X[:, 7] * 30 + 20
    X[:, 40] = 0
    W = torch.randn(24, CHANNELS, generator=draw)
    W[:, 9] = 0
    source = torch.randn(CHANNELS, 10, generator=draw)
    weights, int8 = (W, W[:8] * 2), quantizer("int8")
    pair, rows = (quantizer("int4 g16"), quantizer("int4 g16")), quantizer("int8 row")
    classes = torch.arange(CHANNELS).reshape(4, 16) % 16 + torch.tensor([0, 0, 16, 16])[:, None]
    return [
        (Edge("normed", weights, pair, rows, "norm", torch.arange(CHANNELS)), X),
        (Edge("inner", weights, pair, None, "product", torch.arange(CHANNELS), source), X),
        (Edge("grouped", weights, pair, rows, "product", classes.flatten(), source[classes.flatten()]), X),
        (Edge("alone", (W[:1],), (int8,), rows), X),
        (Edge("silent", (torch.zeros(4, CHANNELS),), (int8,)), torch.zeros(8, CHANNELS)),
    ]


def statistics(transform: Transform, X: Tensor) -> dict[str, Tensor]:
    """What the transform needs, of two sequences."""
    found = {}
    for name in transform.needs:
        statistic = catalog.find("statistic", name)()
        for part in X.chunk(2):
            statistic.update(part)
        found[name] = statistic.value()
    return found


def check_transform(transform: Transform) -> None:
    """Changes keep what layers compute, can be undone and stored; fitting is repeatable and leaves its inputs alone."""
    assert parse(text(transform)) == transform
    for step in transform.steps():
        if isinstance(step, StreamTransform):
            _check_change(step.basis(CHANNELS, Key(3, "stream")), torch.randn(8, CHANNELS), torch.randn(4, CHANNELS))
            continue
        for edge, X in edges():
            stats, before = statistics(step, X), [W.clone() for W in edge.weights]
            change = step.fit(edge, stats, Key(3, edge.name))
            again = step.fit(edge, statistics(step, X), Key(3, edge.name))
            assert all(torch.equal(a, b) for a, b in zip(before, edge.weights, strict=True)), edge.name
            assert (change is None) == (again is None), edge.name
            if change is None or again is None:
                continue
            assert all(torch.equal(a, again.parts()[name]) for name, a in change.parts().items()), edge.name
            for W in edge.weights:
                _check_change(change, X, W)
            if step.absorbed and edge.classes is not None:
                assert change.acts_within(edge.classes), f"{edge.name}: what comes from one channel changes differently"


def _check_change(change: Change, X: Tensor, W: Tensor) -> None:
    stored = KINDS[change.kind](**change.parts())
    x = change.online(X)
    assert x.dtype == X.dtype
    assert torch.isfinite(x).all()
    assert torch.equal(x, stored.online(X))
    exact = X.double() @ W.double().mT + 0.5
    size = float(X.double().norm() * W.double().norm()) + 1
    W2, b2 = change.consumer(W, torch.full((len(W),), 0.5))
    assert b2 is not None
    assert float((x.double() @ W2.double().mT + b2 - exact).abs().max()) < 1e-5 * size
    assert float((change.inverse().online(x) - X).abs().max()) < 1e-4 * (1 + float(X.abs().max()))
