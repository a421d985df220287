"""The catalogue: everything that has a name and a source.

A family is a folder; importing its files registers what they hold. Nothing is listed by hand: the
command line, the contract tests and the generated pages read the entries from here.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lowbit.errors import NameCollision, UnknownName

T = TypeVar("T")

#: kind -> the folder whose files hold its members
FAMILIES = {
    "format": "lowbit.formats",
    "format family": "lowbit.formats",
    "rounding": "lowbit.rounding",
    "scaling": "lowbit.scaling",
    "statistic": "lowbit.statistics",
    "quantizer": "lowbit.quantizers",
    "storage": "lowbit.quantizers",  # functions that make or rearrange codes and weights of several terms
    "solver": "lowbit.solvers",
    "transform": "lowbit.transforms",
    "kv_cache": "lowbit.kv_cache",
    "claim": "lowbit.claims",
}


@dataclass(frozen=True)
class Source:
    """Where a method comes from.

    Args:
        title, authors, year, where: the publication; ``where`` is an arXiv id, a standard or a venue.
        parts: which algorithm, section or equation is implemented.
        departs: how ours differs and why; empty claims that it does not.
        records: ids of the literature catalogue that lead here (``lowbit where ID``).
    """

    title: str
    authors: str
    year: int
    where: str
    parts: str = ""
    departs: str = ""
    records: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One registered thing and the place where it is defined."""

    kind: str
    name: str
    thing: Any
    source: Source
    aliases: tuple[str, ...]
    file: str
    line: int

    @property
    def summary(self) -> str:
        """The first line of the documentation of the thing, or of its file."""
        own = self.thing.__doc__ if inspect.isclass(self.thing) or inspect.isfunction(self.thing) else None
        if own is None:
            module = next((m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == self.file), None)
            own = module.__doc__ if module is not None else ""
        return (own or "").strip().partition("\n")[0]


_entries: dict[tuple[str, str], Entry] = {}
_names: dict[tuple[str, str], str] = {}
_loaded: set[str] = set()


def register(kind: str, name: str, source: Source, aliases: tuple[str, ...] = ()) -> Callable[[T], T]:
    """Put a thing into the catalogue: ``register(kind, name, Source(...))(thing)``, or as a decorator.

    Raises:
        NameCollision: the name or an alias is taken by another thing of that kind.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_back.f_code.co_filename == frame.f_code.co_filename:
        frame = frame.f_back  # the place that registers, not a helper of its file

    def add(thing: T) -> T:
        entry = Entry(kind, name, thing, source, tuple(aliases), frame.f_code.co_filename, frame.f_lineno)
        for alias in (name, *aliases):
            holder = _names.get((kind, alias))
            if holder is not None:
                other = _entries[kind, holder]
                raise NameCollision(f"{kind} {alias!r} is already registered at {other.file}:{other.line}; choose another name")
        for alias in (name, *aliases):
            _names[kind, alias] = name
        _entries[kind, name] = entry
        return thing

    return add


def unregister(kind: str, name: str) -> None:
    """Take a thing out again (tests, interactive work)."""
    entry = _entries.pop((kind, name))
    for alias in (entry.name, *entry.aliases):
        _names.pop((kind, alias), None)


def load(kind: str) -> None:
    """Import every file of a family, and once whatever other packages announce as ``lowbit.methods``."""
    folder = FAMILIES.get(kind)
    if folder is None:
        raise UnknownName(f"there is no kind {kind!r}; kinds are {', '.join(FAMILIES)}")
    if folder not in _loaded:
        _loaded.add(folder)
        package = importlib.import_module(folder)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{folder}.{module.name}")
    if "entry points" not in _loaded:
        _loaded.add("entry points")
        for point in importlib.metadata.entry_points(group="lowbit.methods"):
            point.load()


def load_file(path: str | Path) -> None:
    """Run a user's Python file so that what it registers can be named (``--plugin FILE``).

    Raises:
        UnknownName: there is no such file.
    """
    file = Path(path)
    if not file.is_file():
        raise UnknownName(f"there is no plugin file {str(file)!r}; give the path of a Python file")
    spec = importlib.util.spec_from_file_location(f"lowbit_plugin_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


def entries(kind: str | None = None) -> Iterator[Entry]:
    """All entries of a kind (or of every kind), in order of name."""
    for each in FAMILIES if kind is None else (kind,):
        load(each)
    chosen = [e for e in _entries.values() if kind is None or e.kind == kind]
    yield from sorted(chosen, key=lambda e: (e.kind, e.name))


def lookup(kind: str, name: str) -> Entry | None:
    """The entry under this name or alias, or None."""
    load(kind)
    holder = _names.get((kind, name))
    return None if holder is None else _entries[kind, holder]


def find(kind: str, name: str) -> Any:
    """The thing itself: ``find("format", "float8_e4m3fn")``.

    Raises:
        UnknownName: nothing of that kind has this name; the message holds the nearest known one.
    """
    entry = lookup(kind, name)
    if entry is None:
        raise UnknownName(f"no {kind} is called {name!r}{nearest(name, names(kind))}")
    return entry.thing


def names(kind: str) -> list[str]:
    """Every name and alias of a kind."""
    load(kind)
    return sorted(alias for k, alias in _names if k == kind)


def nearest(name: str, known: list[str]) -> str:
    """``"; did you mean 'nvfp4'?"``, or a pointer to ``lowbit list`` when nothing is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "; `lowbit list` prints every name"
