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

    @abstractmethod
    def solve(self, W: Tensor, quantizer: Quantizer, stats: Mapping[str, Tensor], key: Key) -> Weight:
        """The quantized weight; W is left as it is.

        Shapes:
            W   (out, in), any float dtype

        Args:
            stats: the statistics named in ``needs``.
            key: seed and tensor name, for methods that draw random numbers.
        """


def solver(spec: str | Solver) -> Solver:
    """A solver by its spec string: ``gptq``, ``gptq:damping=0.05``, ``gptq:order=act``.

    Raises:
        UnknownName: no solver has this name.
        SpecError: it has no such parameter, or the value does not fit.
    """
    if isinstance(spec, Solver):
        return spec
    name, *arguments = spec.split(":")
    kind = catalog.find("solver", name)
    known = {f.name: f for f in fields(kind)}
    values: dict[str, object] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or key not in known:
            raise SpecError(f"solver {name} has no parameter {argument!r}; write name=value with {', '.join(known) or 'no parameter at all'}")
        values[key] = _value(text, known[key].default, f"{name}:{argument}")
    return kind(**values)  # type: ignore[no-any-return]


def _value(text: str, default: object, where: str) -> object:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            return float(text)
        if isinstance(default, Solver):
            return solver(text)
    except (ValueError, KeyError):
        raise SpecError(f"{where}: {text!r} does not fit, the default is {default!r}") from None
    return text


def text(value: Solver) -> str:
    """The spec string of a solver; it parses back."""
    entry = next(e for e in catalog.entries("solver") if e.thing is type(value))
    changed = [f for f in fields(value) if getattr(value, f.name) != f.default]  # type: ignore[arg-type]
    return ":".join([entry.name, *(f"{f.name}={_text(getattr(value, f.name))}" for f in changed)])


def _text(value: object) -> str:
    if isinstance(value, Solver):
        return text(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
