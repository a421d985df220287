"""The contract of a solver: from one weight and what the data say to its codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, cast

from torch import Tensor

from lowbit import method
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Weight


class Solver(ABC):
    """Picks the codes of one weight. Solvers are frozen dataclasses: their fields are their whole configuration.

    Attributes:
        needs: names of the statistics of the layer's inputs that ``solve`` reads.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    @property
    def calibrated(self) -> bool:
        """Whether calibration data are needed."""
        return bool(self.needs)

    @property
    def two_streams(self) -> bool:
        """Whether the full-precision model is run beside the quantized one."""
        return "cross" in self.needs

    @abstractmethod
    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        """The quantized weight; W is left as it is.

        Shapes:
            W   (out, in), any float dtype

        Args:
            stats: the statistics named in ``needs``.
            key: seed and tensor name, for methods that draw random numbers.
        """

    def bias(self, W: Tensor, Q: Tensor, stats: Mapping[str, Tensor]) -> Tensor | None:
        """What is added to the layer's bias once its weight W holds the numbers Q, (out,) float32; None leaves it."""
        return None

    def nbytes(self, quantizer: Quantizer, shape: tuple[int, ...]) -> int:
        """Bytes of the weight that ``solve`` gives: those of the quantizer, unless a solver stores more (or less)."""
        return quantizer.nbytes(shape)


def solver(spec: str | Solver) -> Solver:
    """A solver by its spec string: ``gptq``, ``gptq:damping=0.05:order=act``, ``qep:inner=(gptq:damping=0.05)``.

    Raises:
        UnknownName: no solver has this name.
        SpecError: it has no such parameter, or the value does not fit.
    """
    return spec if isinstance(spec, Solver) else cast(Solver, method.parse("solver", spec))


def text(value: Solver) -> str:
    """The spec string of a solver; it parses back.

    Raises:
        SpecError: the solver is not registered.
    """
    return method.text("solver", value)
