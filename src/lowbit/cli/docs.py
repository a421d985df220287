"""lowbit docs: the pages that are generated from the catalogue, the formats, the commands and the results of claims."""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from lowbit import catalog
from lowbit.catalog import Entry
from lowbit.claims.record import claims_page, results_folder
from lowbit.cli.list import PACKAGE, place
from lowbit.cli.main import application
from lowbit.cli.show import facts, format_errors, number, sqnr_db
from lowbit.errors import OutputError

HEADER = ["name", "bits", "levels", "information", "min", "max", "smallest positive", "relative step", "zeros", "NaN", "Inf"]
HEAD = "<!-- written by `lowbit docs`; edit the code, then run `make docs` -->\n\n"


def own(kind: str | None = None) -> list[Entry]:
    """The entries of this package, without those of plugins and other packages."""
    return [e for e in catalog.entries(kind) if Path(e.file).is_relative_to(PACKAGE)]


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def link(where: str) -> str:
    """An arXiv id or an address as a link, other places as they are."""
    if where.startswith("arXiv:"):
        return f"[{where}](https://arxiv.org/abs/{where.removeprefix('arXiv:')})"
    return f"<{where}>" if where.startswith("https://") else where


def methods() -> str:
    """docs/methods.md: every entry of the catalogue, a table a kind."""
    entries = own()
    page = f"{HEAD}# Methods\n\nEverything that has a name: {len(entries)} entries. `lowbit where NAME` prints the line of the code.\n"
    for kind, group in groupby(entries, lambda e: e.kind):
        rows = []
        for entry in group:
            source = entry.source
            words = [f"{source.authors}, *{source.title}*, {source.year}, {link(source.where)}" + f": {source.parts}" * bool(source.parts)]
            words += [f"Departs: {source.departs}"] if source.departs else []
            words += [f"Records: {', '.join(source.records)}"] if source.records else []
            names = "<br>".join(f"`{n}`" for n in (entry.name, *entry.aliases))
            rows.append([names, "<br>".join(words), f"[{place(entry)}](../src/lowbit/{place(entry)})"])
        page += f"\n## {kind}\n\n" + table(["name", "source", "file"], rows)
    return page


def formats() -> str:
    """docs/formats.md: the facts of every registered format."""
    rows, errors = [], []
    for entry in own("format"):
        fmt = entry.thing
        f = facts(fmt)
        steps = [f.get("least_relative_step"), f.get("largest_relative_step")]
        rows.append(
            [
                f"`{entry.name}`",
                str(f["bits"]),
                str(f["levels"]),
                f"{f['information_bits']:.3f}",
                number(f["min"]),
                number(f["max"]),
                "" if f["min_positive"] is None else number(f["min_positive"]),
                "" if steps[0] is None else f"{steps[0]:.3g} to {steps[1]:.3g}",
                str(f.get("zeros", "")),
                str(f.get("nans", "")),
                str(f.get("infinities", "")),
            ]
        )
        found = format_errors(fmt)
        if found:
            errors.append([f"`{entry.name}`", *(f"{sqnr_db(mse):.1f}" if math.isfinite(mse) else "" for mse in found.values())])
            ways = list(found)
    return (
        f"{HEAD}# Formats\n\nAll facts follow from the definitions; `lowbit show NAME` draws a format. Levels are the codes in use, "
        "information is log2 of their number. The relative step is the distance of two positive neighbours over the lower one.\n\n"
        + table(HEADER, rows)
        + "\n## Error on Gaussian numbers\n\nSignal to quantization noise in dB on 262,144 standard normal numbers: as a cast without "
        "scale, and with absmax scales in float32 for blocks of 16, 32, 128 and 4,096 numbers. Formats without negative numbers are "
        "left out.\n\n" + table(["name", *ways], errors)
    )


def commands() -> str:
    """docs/cli.md: the help of every command."""
    group = typer.main.get_command(application())
    page = f"{HEAD}# Commands\n"
    context = group.make_context("lowbit", ["doctor"], resilient_parsing=True, terminal_width=100, max_content_width=100)
    for name in ["", *sorted(group.commands)]:  # type: ignore[attr-defined]
        command = group if not name else group.commands[name]  # type: ignore[attr-defined]
        own_context = context if not name else type(context)(command, info_name=name, parent=context, terminal_width=100)
        page += f"\n## lowbit {name}".rstrip() + f"\n\n```text\n{command.get_help(own_context).rstrip()}\n```\n"
    return page


def claims() -> str:
    """docs/claims.md: every claim, with what its last run found."""
    return HEAD + claims_page(own("claim"), results_folder())


PAGES = {"methods.md": methods, "formats.md": formats, "cli.md": commands, "claims.md": claims}


def run(
    folder: Annotated[Path, typer.Option(help="Where the pages are.")] = Path("docs"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if a page is not up to date.")] = False,
) -> None:
    """Write docs/methods.md, docs/formats.md and docs/cli.md from the code, and docs/claims.md from the results of claims."""
    if not folder.is_dir():
        raise OutputError(f"there is no folder {str(folder)!r}; run this in the root of the repository, or say --folder")
    stale = []
    for name, make in PAGES.items():
        page, file = make(), folder / name
        if not file.exists() or file.read_text(encoding="utf-8") != page:
            stale.append(name)
            if not check:
                file.write_text(page, encoding="utf-8")
    print(f"{'stale' if check else 'written'}: {', '.join(stale)}" if stale else "every page is up to date")
    if check and stale:
        raise typer.Exit(1)
