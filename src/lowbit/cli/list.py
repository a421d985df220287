"""lowbit list [KIND]: everything that has a name."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lowbit import catalog
from lowbit.catalog import Entry

PACKAGE = Path(catalog.__file__).parent


def place(entry: Entry) -> str:
    """The file that registers an entry, relative to the package; that of a plugin as it is."""
    file = Path(entry.file)
    return file.relative_to(PACKAGE).as_posix() if file.is_relative_to(PACKAGE) else str(file)


def record(entry: Entry) -> dict[str, Any]:
    """What ``--json`` prints of an entry; scripts rely on kind, name, aliases and source."""
    source = asdict(entry.source)
    source["records"] = list(entry.source.records)
    return {
        "kind": entry.kind,
        "name": entry.name,
        "aliases": list(entry.aliases),
        "source": source,
        "summary": entry.summary,
        "file": place(entry),
        "line": entry.line,
    }


def run(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help="format, quantizer, solver ...; everything by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print everything that has a name: kind, name, aliases, source, file."""
    entries = list(catalog.entries(kind))
    if as_json:
        print(json.dumps([record(e) for e in entries], indent=1, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("kind", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("aliases")
    table.add_column("source")
    table.add_column("file", no_wrap=True)
    for entry in entries:
        source = entry.source
        table.add_row(entry.kind, entry.name, " ".join(entry.aliases), f"{source.authors} {source.year}, {source.where}", place(entry))
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)
    console.print(table)
    console.print(f"{len(entries)} entries; `lowbit where NAME` tells more, `lowbit show NAME` draws a format")
