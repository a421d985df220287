"""Methods by their spec strings: ``gptq``, ``gptq:damping=0.05:order=act``, ``qep:inner=(gptq:damping=0.05)``.

A method is a frozen dataclass that is registered under a kind of the catalogue; its fields are its parameters.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from lowbit import catalog
from lowbit.errors import SpecError


def parse(kind: str, spec: str) -> Any:
    """A method of this kind by its spec string.

    Raises:
        UnknownName: none has this name.
        SpecError: it has no such parameter, or the value does not fit.
    """
    name, *arguments = _split(kind, spec)
    made = catalog.find(kind, name)
    known = {f.name: f for f in fields(made)}
    values: dict[str, object] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in known:
            takes = f"write name=value with {', '.join(known)}" if known else "it takes none"
            raise SpecError(f"{kind} {name} has no parameter {argument!r}; {takes}")
        if key in values:
            raise SpecError(f"{kind} {name}: {key} is given twice; give it once")
        values[key] = _value(kind, value, known[key].default, f"{name}:{argument}")
    return made(**values)


def _split(kind: str, spec: str) -> list[str]:
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
        raise SpecError(f"the parentheses of the {kind} {spec!r} do not match")
    return parts


def _value(kind: str, words: str, default: object, where: str) -> object:
    bare = words[1:-1] if words.startswith("(") and words.endswith(")") else words
    if is_dataclass(default):
        return parse(kind, bare)
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[bare]
        if isinstance(default, int):
            return int(bare)
        if isinstance(default, float):
            return float(bare)
    except (ValueError, KeyError):
        raise SpecError(f"{where}: {words!r} does not fit, the default is {_words(kind, default)}") from None
    return bare


def text(kind: str, value: Any) -> str:
    """The spec string of a method; it parses back.

    Raises:
        SpecError: the method is not registered.
    """
    entry = next((e for e in catalog.entries(kind) if e.thing is type(value)), None)
    if entry is None:
        raise SpecError(f"{type(value).__name__} is not registered, so it has no spec string; register it as a {kind}")
    changed = [f for f in fields(value) if getattr(value, f.name) != f.default]
    return ":".join([entry.name, *(f"{f.name}={_words(kind, getattr(value, f.name))}" for f in changed)])


def _words(kind: str, value: object) -> str:
    words = text(kind, value) if is_dataclass(value) else str(value).lower() if isinstance(value, bool) else str(value)
    return f"({words})" if ":" in words else words
