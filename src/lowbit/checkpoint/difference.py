"""What differs between two checkpoints, tensor by tensor, and by how much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lowbit.checkpoint.layout import Manifest, read_manifest
from lowbit.checkpoint.reading import Tensors
from lowbit.nn.packed import PackedWeight
from lowbit.quantizers.grid import QTensor


@dataclass(frozen=True)
class Difference:
    """One layer or tensor that is not the same in both.

    Attributes:
        name: of the layer or tensor.
        what: one sentence.
        codes: share of the codes that differ, where both are packed alike.
        relative: ||A - B||^2 / ||A||^2 of the numbers, where the shapes agree.
        largest: the largest |A - B|.
    """

    name: str
    what: str
    codes: float | None = None
    relative: float | None = None
    largest: float | None = None


def differences(a: Path, b: Path) -> Iterator[Difference]:
    """Everything that differs, in the order of the first checkpoint; tensors with equal digests are not read.

    Raises:
        CheckpointError: one of them cannot be read.
    """
    first, second = read_manifest(a), read_manifest(b)
    of_first, of_second = Tensors(a, first), Tensors(b, second)
    for name in [*first.layers, *(n for n in second.layers if n not in first.layers)]:
        if name not in first.layers or name not in second.layers:
            yield Difference(name, f"packed only in {a if name in first.layers else b}")
        elif _digests(first, name) != _digests(second, name) or first.layers[name] != second.layers[name]:
            yield _layers(name, _packed(first, of_first, name), _packed(second, of_second, name))
    packed = tuple(f"{n}.weight." for n in {**first.layers, **second.layers})
    for name in dict.fromkeys([*first.tensors, *second.tensors]):
        if name.startswith(packed):
            continue
        if name not in first.tensors or name not in second.tensors:
            yield Difference(name, f"only in {a if name in first.tensors else b}")
        elif first.tensors[name].digest != second.tensors[name].digest:
            yield _numbers(name, of_first[name], of_second[name])


def _digests(manifest: Manifest, layer: str) -> dict[str, str]:
    return {n: t.digest for n, t in manifest.tensors.items() if n.startswith(f"{layer}.weight.")}


def _packed(manifest: Manifest, tensors: Tensors, layer: str) -> PackedWeight:
    facts = manifest.layers[layer]
    return PackedWeight.described(tensors.starting(f"{layer}.weight."), facts["shape"], facts["terms"])


def _layers(name: str, a: PackedWeight, b: PackedWeight) -> Difference:
    if a.shape != b.shape:
        return Difference(name, f"{tuple(a.shape)} against {tuple(b.shape)}")
    found = _numbers(name, a.unpacked().dequantize(), b.unpacked().dequantize())
    if a.describe() != b.describe():
        words = [" + ".join(t.get("spec", t["kind"]) for t in w.describe()) for w in (a, b)]
        return Difference(name, f"{words[0]} against {words[1]}", None, found.relative, found.largest)
    terms = zip(a.unpacked().terms, b.unpacked().terms, strict=True)
    shares = [float((x.codes != y.codes).double().mean()) for x, y in terms if isinstance(x, QTensor) and isinstance(y, QTensor)]
    codes = max(shares) if shares else None
    return Difference(name, "other numbers" if found.largest else "the same numbers from other bytes", codes, found.relative, found.largest)


def _numbers(name: str, a: Tensor, b: Tensor) -> Difference:
    if a.shape != b.shape:
        return Difference(name, f"{tuple(a.shape)} against {tuple(b.shape)}")
    a, b = a.double(), b.double()
    lost = float((a - b).square().sum() / a.square().sum().clamp(min=torch.finfo(torch.float64).tiny))
    return Difference(name, "other numbers", None, lost, float((a - b).abs().max()) if a.numel() else 0.0)
