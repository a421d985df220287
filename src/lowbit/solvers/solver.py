"""The contract of a solver: from one weight and what the data say to its codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from typing import ClassVar

from torch import Tensor

from lowbit import catalog
from lowbit.errors import SpecError
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

    def nbytes(self, quantizer: Quantizer, shape: tuple[int, ...]) -> int:
        """Bytes of the weight that ``solve`` gives: those of the quantizer, unless a solver stores more (or less)."""
        return quantizer.nbytes(shape)


def solver(spec: str | Solver) -> Solver:
    """A solver by its spec string: ``gptq``, ``gptq:damping=0.05:order=act``, ``qep:inner=(gptq:damping=0.05)``.

    Raises:
        UnknownName: no solver has this name.
        SpecError: it has no such parameter, or the value does not fit.
    """
    if isinstance(spec, Solver):
        return spec
    name, *arguments = _split(spec)
    kind = catalog.find("solver", name)
    known = {f.name: f for f in fields(kind)}
    values: dict[str, object] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in known:
            takes = f"write name=value with {', '.join(known)}" if known else "it takes none"
            raise SpecError(f"solver {name} has no parameter {argument!r}; {takes}")
        if key in values:
            raise SpecError(f"solver {name}: {key} is given twice; give it once")
        values[key] = _value(value, known[key].default, f"{name}:{argument}")
    return kind(**values)  # type: ignore[no-any-return]


def _split(spec: str) -> list[str]:
    """The parts between colons; parentheses hold parts together."""
    parts, depth = [""], 0
    for letter in spec:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            break
        if letter == ":" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise SpecError(f"the parentheses of the solver {spec!r} do not match")
    return parts


def _value(words: str, default: object, where: str) -> object:
    bare = words[1:-1] if words.startswith("(") and words.endswith(")") else words
    if isinstance(default, Solver):
        return solver(bare)
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[bare]
        if isinstance(default, int):
            return int(bare)
        if isinstance(default, float):
            return float(bare)
    except (ValueError, KeyError):
        raise SpecError(f"{where}: {words!r} does not fit, the default is {_text(default)}") from None
    return bare


def text(value: Solver) -> str:
    """The spec string of a solver; it parses back.

    Raises:
        SpecError: the solver is not registered.
    """
    entry = next((e for e in catalog.entries("solver") if e.thing is type(value)), None)
    if entry is None:
        raise SpecError(f"{type(value).__name__} is not registered, so it has no spec string; register it as a solver")
    changed = [f for f in fields(value) if getattr(value, f.name) != f.default]  # type: ignore[arg-type]
    return ":".join([entry.name, *(f"{f.name}={_text(getattr(value, f.name))}" for f in changed)])


def _text(value: object) -> str:
    words = text(value) if isinstance(value, Solver) else str(value).lower() if isinstance(value, bool) else str(value)
    return f"({words})" if ":" in words else words
