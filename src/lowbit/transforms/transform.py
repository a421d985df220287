"""The contract of a transform: another basis for the numbers that layers read, in which they are easier to quantize."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor

from lowbit import method
from lowbit.errors import ShapeError, UnsupportedError
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer

#: name, as stored in checkpoints -> the kind of change
KINDS: dict[str, type[Change]] = {}


class Change(ABC):
    """An invertible affine change of numbers x (..., channels); layers that read them follow, so that W' x' + b' = W x + b.

    A kind has a name of its own: ``class Scaled(Change, kind="scaled")``; its fields are tensors.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls, kind: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if kind:
            cls.kind = kind
            KINDS[kind] = cls

    @abstractmethod
    def online(self, x: Tensor) -> Tensor:
        """x' for x (..., channels), in the dtype of x."""

    @abstractmethod
    def consumer(self, W: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W' and b' of a layer that reads x' where it read x.

        Shapes:
            W   (out, ..., channels)
            b   (out,) or None
        """

    @abstractmethod
    def inverse(self) -> Self:
        """The change back."""

    @abstractmethod
    def parts(self) -> dict[str, Tensor]:
        """The tensors that it consists of, by the names of its fields."""

    def producer(self, W: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W' and b' of a layer W (channels, ...) that gives x' where it gave x.

        Raises:
            UnsupportedError: no layer can.
        """
        raise UnsupportedError(f"a {self.kind} change is not absorbed by the layer before it")

    def acts_within(self, classes: Tensor) -> bool:
        """Whether the layer before can give x' although its channel ``classes[j]`` is seen as channel j, one perhaps more than once."""
        return False

    def at_producer(self, classes: Tensor, count: int) -> Change:
        """The same change of the layer's ``count`` channels, where ``acts_within`` holds."""
        return self


@dataclass(frozen=True, eq=False)
class Scaled(Change, kind="scaled"):
    """x' = (x - shift) / scale, channel by channel. Whatever makes x can make x' instead, if it has a gain for each channel.

    Shapes:
        scale   (channels,) float32, not 0
        shift   (channels,) float32, or None
    """

    scale: Tensor
    shift: Tensor | None = None

    def online(self, x: Tensor) -> Tensor:
        y = x.float() if self.shift is None else x.float() - self.shift
        return (y / self.scale).to(x.dtype)

    def consumer(self, W: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.shift is not None:
            moved = (W.double() @ self.shift.double()).reshape(len(W), -1).sum(1)
            b = (moved if b is None else moved + b.double()).to(W.dtype)
        return (W.double() * self.scale).to(W.dtype), b

    def producer(self, W: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        s = self.scale.double()
        moved = (W.double() / s.reshape(-1, *[1] * (W.ndim - 1))).to(W.dtype)
        shift = None if self.shift is None else self.shift.double()
        if shift is None:
            return moved, None if b is None else (b.double() / s).to(b.dtype)
        return moved, ((-shift if b is None else b.double() - shift) / s).to(W.dtype)

    def acts_within(self, classes: Tensor) -> bool:
        one = torch.zeros(int(classes.max()) + 1, dtype=self.scale.dtype).index_put_((classes,), self.scale.cpu())
        return torch.equal(one[classes], self.scale.cpu())

    def at_producer(self, classes: Tensor, count: int) -> Scaled:
        """The same change of the producer's channels; those that nobody sees stay as they are."""
        scale = torch.ones(count, dtype=self.scale.dtype, device=self.scale.device)
        scale[classes] = self.scale
        if self.shift is None:
            return Scaled(scale)
        shift = torch.zeros_like(scale)
        shift[classes] = self.shift
        return Scaled(scale, shift)

    def inverse(self) -> Scaled:
        return Scaled(1 / self.scale, None if self.shift is None else -self.shift / self.scale)

    def parts(self) -> dict[str, Tensor]:
        return {"scale": self.scale} if self.shift is None else {"scale": self.scale, "shift": self.shift}


@dataclass(frozen=True, eq=False)
class Blockwise(Change, kind="blockwise"):
    """x' = x T with T block-diagonal: neighbouring channels are mixed, blocks are not.

    Shapes:
        forth   (1 or blocks, n, n) float32, a matrix of each block, or one for all
        back    the same, the inverses
    """

    forth: Tensor
    back: Tensor

    @classmethod
    def orthogonal(cls, T: Tensor) -> Blockwise:
        """From orthogonal matrices (1 or blocks, n, n)."""
        return cls(T, T.mT.contiguous())

    @property
    def size(self) -> int:
        """Channels of a block."""
        return self.forth.shape[-1]

    def online(self, x: Tensor) -> Tensor:
        return self._product(x.float(), self.forth).to(x.dtype)

    def consumer(self, W: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self._product(W.double(), self.back.mT.double()).to(W.dtype), b

    def producer(self, W: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        T = self.forth.double()
        moved = self._product(W.double().movedim(0, -1), T).movedim(-1, 0).contiguous()
        return moved.to(W.dtype), None if b is None else self._product(b.double(), T).to(b.dtype)

    def acts_within(self, classes: Tensor) -> bool:
        return len(self.forth) == 1 and in_whole_blocks(classes, self.size)

    def _product(self, x: Tensor, T: Tensor) -> Tensor:
        n = self.size
        if x.shape[-1] % n or len(T) not in (1, x.shape[-1] // n):
            raise ShapeError(f"{x.shape[-1]} channels in {len(T)} blocks of {n}")
        blocks = x.unflatten(-1, (-1, n))
        product = blocks @ T[0] if len(T) == 1 else torch.einsum("...kn,knm->...km", blocks, T)
        return product.flatten(-2)

    def inverse(self) -> Blockwise:
        return Blockwise(self.back, self.forth)

    def parts(self) -> dict[str, Tensor]:
        return {"forth": self.forth, "back": self.back}


def in_whole_blocks(classes: Tensor, size: int) -> bool:
    """Whether channels come in blocks of ``size`` neighbours, each a whole block of where they come from, in the same order."""
    if len(classes) % size:
        return False
    blocks = classes.reshape(-1, size)
    return bool((blocks == blocks[:, :1] + torch.arange(size)).all()) and bool((blocks[:, 0] % size == 0).all())


@dataclass(frozen=True, eq=False)
class Edge:
    """Numbers that one or several layers read, as a transform sees them.

    Args:
        name: of the first layer that reads them.
        weights: of the layers that read them, (out, channels); a convolution's is (out * kernel, channels).
        quantizers: of these weights.
        activations: the quantizer of the numbers themselves, or None where they stay as they are.
        producer: what can make the changed numbers instead: a norm, a product, or None.
        classes: (channels,) int64 on the CPU, the channel of the producer that each channel comes from; equal ones can only change alike.
        source: the weight of a product that produces the numbers, (channels, in), one row for each channel.
    """

    name: str
    weights: Sequence[Tensor]
    quantizers: Sequence[Quantizer]
    activations: Quantizer | None = None
    producer: Literal["norm", "product"] | None = None
    classes: Tensor | None = None
    source: Tensor | None = None

    @property
    def channels(self) -> int:
        """How many numbers a token has here."""
        return self.weights[0].shape[1]

    def shared(self, scale: Tensor) -> Tensor:
        """Positive scales made equal where channels can only change alike: their geometric mean."""
        if self.classes is None or len(self.classes.unique()) == len(self.classes):
            return scale
        count = int(self.classes.max()) + 1
        total = torch.zeros(count, dtype=torch.float64).index_add_(0, self.classes, scale.double().log().cpu())
        mean = (total / torch.bincount(self.classes, minlength=count).clamp(min=1)).exp()
        return mean[self.classes].to(scale.device, scale.dtype)

    def weight_absmax(self) -> Tensor:
        """The largest magnitude of each column over all weights, (channels,)."""
        return torch.stack([W.float().abs().amax(0) for W in self.weights]).amax(0)


class Transform(ABC):
    """Finds a change for an edge. Transforms are frozen dataclasses: their fields are their whole configuration.

    Attributes:
        needs: names of the statistics of the edge's numbers that ``fit`` reads.
        absorbed: whether the change must disappear into what makes the numbers; edges where that cannot be are left alone. Otherwise
            what cannot be absorbed is computed before the layers, each time.
        of_inputs: whether it has something to do only where the layers' inputs are quantized.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    absorbed: ClassVar[bool] = True
    of_inputs: ClassVar[bool] = False

    def steps(self) -> tuple[Transform, ...]:
        """The transforms that are applied one after the other; itself, unless it is made of others."""
        return (self,)

    def check(self, channels: int) -> None:  # noqa: B027 - most transforms serve any number of channels
        """Refuse, before any work, an edge of so many channels.

        Raises:
            ShapeError: there is no such change.
        """

    @abstractmethod
    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Change | None:
        """The change for an edge, None to leave it as it is.

        Args:
            stats: the statistics named in ``needs``.
            key: seed and name of the edge, for what is drawn.
        """

    def inputs(self, edge: Edge, stats: Mapping[str, Tensor]) -> Quantizer | None:
        """Another quantizer for the changed numbers, None to keep ``edge.activations``; edge and statistics are those before the change."""
        return None


class StreamTransform(Transform):
    """A transform of the residual stream: one orthogonal matrix for the whole model, absorbed by what reads and writes the stream."""

    def fit(self, edge: Edge, stats: Mapping[str, Tensor], key: Key) -> Change | None:
        """Leaves every edge alone."""
        return None

    @abstractmethod
    def basis(self, channels: int, key: Key) -> Change:
        """The change of the stream.

        Raises:
            ShapeError: there is none for so many channels.
        """


def transform(spec: str | Transform) -> Transform:
    """A transform by its spec string: ``smoothquant``, ``smoothquant:alpha=0.8``.

    Raises:
        UnknownName: no transform has this name.
        SpecError: it has no such parameter, or the value does not fit.
    """
    return spec if isinstance(spec, Transform) else cast(Transform, method.parse("transform", spec))


def text(value: Transform) -> str:
    """The spec string of a transform; it parses back.

    Raises:
        SpecError: the transform is not registered.
    """
    return method.text("transform", value)
