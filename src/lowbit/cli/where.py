"""lowbit where NAME: where something is defined and where it comes from."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lowbit import catalog
from lowbit.catalog import Entry
from lowbit.cli.list import record
from lowbit.errors import UnknownName


def hits(name: str) -> list[Entry]:
    """Every entry with this name, alias or record id; for a member of a format family (``e3m5f``) the family.

    Raises:
        UnknownName: there is none; the message holds the nearest known name.
    """
    entries = list(catalog.entries())
    found = [e for e in entries if name in (e.name, *e.aliases, *e.source.records)]
    if not found:
        found = [e for e in entries if e.kind == "format family" and e.thing(name) is not None]
    if not found:
        known = sorted({word for e in entries for word in (e.name, *e.aliases, *e.source.records)})
        raise UnknownName(f"nothing is called {name!r}{catalog.nearest(name, known)}")
    return found


def describe(entry: Entry) -> str:
    """A few lines on one entry."""
    source = entry.source
    lines = [f"{entry.kind} {entry.name}  {entry.file}:{entry.line}", f"    {entry.summary}"]
    if entry.aliases:
        lines.append(f"    also called {', '.join(entry.aliases)}")
    lines.append(f"    {source.authors} {source.year}, {source.title}, {source.where}" + f": {source.parts}" * bool(source.parts))
    if source.departs:
        lines.append(f"    departs: {source.departs}")
    if source.records:
        lines.append(f"    records: {', '.join(source.records)}")
    return "\n".join(lines)


def run(
    name: Annotated[str, typer.Argument(help="A name, an alias, or the id of a record of the literature catalogue.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as `lowbit list` does.")] = False,
) -> None:
    """Print the file and line, the first line of documentation and the source of everything with that name."""
    found = hits(name)
    print(json.dumps([record(e) for e in found], indent=1, ensure_ascii=False) if as_json else "\n\n".join(map(describe, found)))
