"""Augmented: the rounding errors of some channels are channels of their own, quantized in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lowbit.errors import ShapeError, UnsupportedError
from lowbit.quantizers.grid import Grid, QTensor
from lowbit.quantizers.quantizer import Quantizer

#: the name before the dot of the parts of the errors
ERRORS = "errors"


@dataclass(frozen=True, eq=False)
class AugmentedTensor(QTensor):
    """A quantized tensor and the quantized errors of its last channels.

    Shapes:
        errors  (..., channels)
    """

    errors: QTensor

    def dequantize(self) -> Tensor:
        """The sum of both, float32."""
        x = self.grid.dequantize(self.codes)
        x[..., x.shape[-1] - self.errors.shape[-1] :] += self.errors.dequantize()
        return x

    def packed(self) -> dict[str, Tensor]:
        """As ``QTensor.packed``, and the same of the errors."""
        return super().packed() | {f"{ERRORS}.{name}": part for name, part in self.errors.packed().items()}


@dataclass(frozen=True)
class Augmented(Quantizer):
    """[Q(x), Q(x - Q(x))] with the second part for the last ``channels`` of the last axis; it decodes to their sum.

    With a weight whose last columns stand there twice, codes and scales copied, one product of a single format gives what the sum
    gives: [Q(x), Q(r)] [W, W_last]^T = (Q(x) + Q(r)) W^T. Written ``augmented(nvfp4;64)`` in a spec.

    Args:
        quantizer: without noise.
        channels: at least 1.

    Raises:
        UnsupportedError: the quantizer draws noise, or there are no channels.
    """

    quantizer: Quantizer
    channels: int

    def __post_init__(self) -> None:
        if self.channels < 1 or getattr(getattr(self.quantizer, "rounding", None), "noisy", False):
            raise UnsupportedError(f"augmented() takes a quantizer without noise and at least 1 channel, not {self.channels}")

    def _rest(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not shape or shape[-1] < self.channels:
            raise ShapeError(f"the errors of {self.channels} channels of a tensor {shape}, which has fewer")
        return (*shape[:-1], self.channels)

    def grid(self, x: Tensor, importance: Tensor | None = None, outer: Grid | None = None) -> Grid:
        """The grid of the first part."""
        return self.quantizer.grid(x, importance, outer)

    def quantize(self, x: Tensor, importance: Tensor | None = None, noise: Tensor | None = None) -> AugmentedTensor:
        """Both parts.

        Raises:
            ShapeError: x has fewer channels, or blocks do not divide one of the parts.
        """
        self._rest(tuple(x.shape))
        q = self.quantizer.quantize(x, importance)
        last = slice(x.shape[-1] - self.channels, None)
        weights = None if importance is None else importance.expand(x.shape)[..., last]
        return AugmentedTensor(q.codes, q.grid, self.quantizer.quantize((x.float() - q.dequantize())[..., last], weights))

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of both parts."""
        return self.quantizer.nbytes(shape) + self.quantizer.nbytes(self._rest(shape))

    def unpack(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> AugmentedTensor:
        """The inverse of ``QTensor.packed``.

        Raises:
            CheckpointError: a part is missing or does not fit.
        """
        prefix = f"{ERRORS}."
        errors = {name.removeprefix(prefix): part for name, part in parts.items() if name.startswith(prefix)}
        q = self.quantizer.unpack({name: part for name, part in parts.items() if not name.startswith(prefix)}, shape)
        return AugmentedTensor(q.codes, q.grid, self.quantizer.unpack(errors, self._rest(shape)))
