"""What a change costs: the squared error of the layers that read an edge, with weights and inputs rounded to nearest."""

from __future__ import annotations

from torch import Tensor

from lowbit.transforms.transform import Change, Edge


def output_loss(edge: Edge, X: Tensor, change: Change) -> float:
    """sum over layers of ||Q_w(W') Q_x(x') + (b' - b) - W x||^2, Q_x being nothing where inputs stay as they are.

    Shapes:
        X   (samples, channels)
    """
    x = change.online(X)
    x = x if edge.activations is None else edge.activations.quantize(x).dequantize()
    total = 0.0
    for W, quantizer in zip(edge.weights, edge.quantizers, strict=True):
        moved, bias = change.consumer(W.float(), None)
        out = x @ quantizer.quantize(moved).dequantize().mT
        out = out if bias is None else out + bias
        total += float((out - X @ W.float().mT).double().square().sum())
    return total


def gram_loss(edge: Edge, H: Tensor, change: Change) -> float:
    """sum over layers of ||(Q_w(W') back in the old basis - W) X||^2 = tr(D H D^T), inputs as they are; ``change`` is diagonal.

    Shapes:
        H   (channels, channels)
    """
    back, total = change.inverse(), 0.0
    for W, quantizer in zip(edge.weights, edge.quantizers, strict=True):
        moved, _ = change.consumer(W.float(), None)
        Q, _ = back.consumer(quantizer.quantize(moved).dequantize(), None)
        D = Q - W.float()
        total += float(((D @ H.float()) * D).double().sum())
    return total
