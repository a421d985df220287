"""Hadamard: random signs, then a Hadamard matrix, so that every channel of a block carries a little of each other one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowbit.catalog import Source, register
from lowbit.errors import DataError, ShapeError
from lowbit.philox import Key, noise
from lowbit.transforms.transform import Change, Edge, StreamTransform, Transform, in_whole_blocks

ASHKBOOS = Source(
    "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs",
    "Ashkboos, Mohtashami, Croci, Li, Cameron, Jaggi, Alistarh, Hoefler, Hensman",
    2024,
    "arXiv:2404.00456",
    parts="section 4, stage 1 (the residual stream, heads of values, inputs of down and output projections)",
    departs="Embedding and output layer keep their numbers, which may be tied: the stream is turned after the one and turned back "
    "before the last norm. Without activation or cache quantization nothing is done to queries and keys.",
)
TSENG = Source(
    "QuIP#: Even Better LLM Quantization with Hadamard Incoherence and Lattice Codebooks",
    "Tseng, Chee, Sun, Kuleshov, De Sa",
    2024,
    "arXiv:2402.04396",
    parts="section 3 (randomized Hadamard transform)",
)


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def _paley(order: int) -> Tensor | None:
    """Paley's matrix of the first or second kind over a prime field, if there is one of this order."""
    if _prime(order - 1) and (order - 1) % 4 == 3:
        core, q = _conference(order - 1, skew=True), order
        return core + torch.eye(q, dtype=torch.float64)
    q = order // 2 - 1
    if order % 4 == 0 and _prime(q) and q % 4 == 1:
        core = _conference(q, skew=False)
        plus, minus = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double(), torch.tensor([[1.0, -1.0], [-1.0, -1.0]]).double()
        return torch.kron(core, plus) + torch.kron(torch.eye(q + 1, dtype=torch.float64), minus)
    return None


def _conference(q: int, *, skew: bool) -> Tensor:
    """The conference matrix of order q + 1: quadratic residues mod q, bordered with ones."""
    residues = {i * i % q for i in range(1, q)}
    character = torch.tensor([0.0] + [1.0 if i in residues else -1.0 for i in range(1, q)], dtype=torch.float64)
    index = torch.arange(q)
    C = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    C[1:, 1:] = character[(index[:, None] - index[None]) % q]
    C[0, 1:] = 1
    C[1:, 0] = -1 if skew else 1
    return C


@lru_cache
def factors(n: int) -> tuple[Tensor, ...]:
    """Orthogonal matrices whose Kronecker product is a Hadamard matrix of order n over sqrt(n): none larger than 64 where that can be.

    Raises:
        ShapeError: neither Sylvester's nor Paley's construction gives one.
    """
    twos = (n & -n).bit_length() - 1
    for power in range(twos, -1, -1):
        rest = n >> power
        odd = torch.ones(1, 1, dtype=torch.float64) if rest == 1 else _paley(rest)
        if odd is not None:
            pieces = [] if rest == 1 else [odd / rest**0.5]
            while power:
                take = min(power, 6)
                H = torch.ones(1, 1, dtype=torch.float64)
                for _ in range(take):
                    H = torch.kron(H, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
                pieces.append(H / 2 ** (take / 2))
                power -= take
            return tuple(pieces) or (odd,)
    raise ShapeError(f"no Hadamard matrix of {n} is known here; a size that divides {n} and is a power of two fits, {n & -n} at most")


def multiply(x: Tensor, n: int, *, transposed: bool = False) -> Tensor:
    """Blocks of n numbers on the last axis times the orthogonal Hadamard matrix of order n, or its transpose.

    Raises:
        ShapeError: n does not divide the axis, or there is no such matrix.
    """
    if x.shape[-1] % n:
        raise ShapeError(f"blocks of {n} do not divide {x.shape[-1]} channels")
    pieces = factors(n)
    y = x.unflatten(-1, (-1, *(len(p) for p in pieces)))
    for axis, piece in enumerate(pieces):
        H = (piece.mT if transposed else piece).to(x.device, x.dtype)
        place = axis - len(pieces)
        y = (y.movedim(place, -1) @ H).movedim(-1, place)
    return y.flatten(x.ndim - 1)


def _check(channels: int, size: int) -> int:
    """The size of a block, 0 being all channels.

    Raises:
        ShapeError: it does not divide the channels, or there is no Hadamard matrix of that order.
    """
    n = size or channels
    if channels % n:
        raise ShapeError(f"Hadamard blocks of {n} do not divide {channels} channels; {channels & -channels} would")
    factors(n)
    return n


@dataclass(frozen=True, eq=False)
class Turned(Change, kind="hadamard"):
    """x' = (x * signs) H, or with ``back`` x' = (x H^T) * signs; H of each block of ``size`` channels is orthogonal.

    Shapes:
        signs   (channels,) int8, +1 or -1
        size    () int64
        back    () bool
    """

    signs: Tensor
    size: Tensor
    back: Tensor

    @classmethod
    def of(cls, channels: int, size: int, key: Key) -> Turned:
        """With random signs; size 0 is one block.

        Raises:
            ShapeError: the size does not divide the channels, or there is no Hadamard matrix of that order.
        """
        n = _check(channels, size)
        signs = (1 - 2 * (noise(key, (n,)) >> 31)).to(torch.int8).repeat(channels // n)
        return cls(signs, torch.tensor(n), torch.tensor(False))

    def _turn(self, x: Tensor) -> Tensor:
        n, signs = int(self.size), self.signs.to(x.device, x.dtype)
        return multiply(x, n, transposed=True) * signs if bool(self.back) else multiply(x * signs, n)

    def online(self, x: Tensor) -> Tensor:
        return self._turn(x.float()).to(x.dtype)

    def consumer(self, W: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self._turn(W.double()).to(W.dtype), b

    def producer(self, W: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        moved = self._turn(W.double().movedim(0, -1)).movedim(-1, 0).contiguous()
        return moved.to(W.dtype), None if b is None else self._turn(b.double()).to(b.dtype)

    def acts_within(self, classes: Tensor) -> bool:
        n = int(self.size)
        return in_whole_blocks(classes, n) and bool((self.signs.reshape(-1, n) == self.signs[:n]).all())

    def at_producer(self, classes: Tensor, count: int) -> Turned:
        """The same change of the producer's channels."""
        n = int(self.size)
        return Turned(self.signs[:n].repeat(count // n), self.size, self.back)

    def inverse(self) -> Turned:
        return Turned(self.signs, self.size, ~self.back)

    def parts(self) -> dict[str, Tensor]:
        return {"signs": self.signs, "size": self.size, "back": self.back}


@register("transform", "hadamard", TSENG)
@dataclass(frozen=True)
class Hadamard(Transform):
    """x' = (x * signs) H in front of layers, absorbed by the layer before where its channels only pass through.

    Args:
        size: channels of a block; 0 is all of them.
        edges: ``all``, or ``inner`` for those that no norm feeds.
    """

    size: int = 0
    edges: Literal["all", "inner"] = "all"
    absorbed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.size < 0 or self.edges not in ("all", "inner"):
            raise DataError(f"hadamard:size={self.size}:edges={self.edges}: the size is 0 or more, edges are all or inner")

    def check(self, channels: int) -> None:
        _check(channels, self.size)

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Change | None:
        if self.edges == "inner" and edge.producer == "norm":
            return None
        return Turned.of(edge.channels, self.size, key)


@register("transform", "stream_hadamard", ASHKBOOS)
@dataclass(frozen=True)
class StreamHadamard(StreamTransform):
    """The residual stream in another basis: x' = (x * signs) H, absorbed by what reads and writes it; norms' gains go to the readers.

    Args:
        size: channels of a block; 0 is all of them.
    """

    size: int = 0

    def basis(self, channels: int, key: Key) -> Turned:
        return Turned.of(channels, self.size, key)


@register("transform", "quarot", ASHKBOOS)
@dataclass(frozen=True)
class QuaRot(Transform):
    """The residual stream in a Hadamard basis, and Hadamard matrices in front of the layers that no norm feeds.

    Args:
        size: channels of a block on all of these; 0 is all of them.
    """

    size: int = 0

    def steps(self) -> tuple[Transform, ...]:
        return (StreamHadamard(self.size), Hadamard(self.size, "inner"))

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Change | None:
        """Nothing of its own; see ``steps``."""
        return None
