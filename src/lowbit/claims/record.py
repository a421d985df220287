"""What is kept of a claim that was run: one JSON file a claim, and the page that is made from them."""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lowbit.catalog import Entry
from lowbit.checkpoint.writing import versions, whole
from lowbit.claims.claim import Claim, verdict
from lowbit.errors import CheckpointError, OutputError
from lowbit.progress import ProgressCallback

#: where results lie in a checkout
RESULTS = Path("benchmarks") / "results" / "claims"


@dataclass(frozen=True)
class Record:
    """One run of one claim.

    Args:
        claim: its name.
        budget_minutes, cpu_minutes, seconds: what it was allowed and what it took; seconds are wall-clock time.
        machine: ``cpu``, ``cores`` and ``threads``.
    """

    claim: str
    verdict: str
    text: str
    checks: dict[str, bool]
    figures: dict[str, list[dict[str, Any]]]
    budget_minutes: float
    cpu_minutes: float
    seconds: float
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    statement: str = ""
    setting: str = ""
    rule: str = ""
    source: dict[str, str] = field(default_factory=dict)


def tried(entry: Entry, budget: float | None = None, progress: ProgressCallback | None = None) -> Record:
    """Run a registered claim.

    Args:
        budget: CPU minutes; by default what the claim takes with everything, and half as much again.

    Raises:
        LowbitError: the budget is too small, or something that the claim needs fails.
    """
    claim: Claim = entry.thing
    allowed = 1.5 * claim.minutes if budget is None else budget
    wall, cpu = time.perf_counter(), time.process_time()
    outcome = claim.run(allowed, progress)
    return Record(
        entry.name, outcome.verdict, outcome.text, outcome.checks, outcome.figures, allowed,
        round((time.process_time() - cpu) / 60, 2), round(time.perf_counter() - wall, 1), machine(), versions(),
        datetime.date.today().isoformat(), claim.statement, claim.setting, claim.rule,
        {"title": entry.source.title, "authors": entry.source.authors, "year": str(entry.source.year), "where": entry.source.where,
         "parts": entry.source.parts, "departs": entry.source.departs},
    )  # fmt: skip


def machine() -> dict[str, Any]:
    """Model of the processor, cores that this process may use, threads that torch uses."""
    named = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line.partition(":") for line in info.read_text(encoding="utf-8", errors="replace").splitlines())
        named = next((value.strip() for name, _, value in lines if name.strip() == "model name"), named)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": named, "cores": cores, "threads": torch.get_num_threads()}


def results_folder() -> Path:
    """``benchmarks/results/claims`` of the checkout that the current folder lies in, otherwise the current folder."""
    here = Path.cwd()
    for place in (here, *here.parents):
        if (place / "src" / "lowbit" / "claims").is_dir():
            return place / RESULTS
    return here


def write(record: Record, folder: Path) -> Path:
    """Write ``<claim>.json``, whole or not at all.

    Raises:
        OutputError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {str(folder)!r} cannot be made: {error.strerror}") from error
    path = folder / f"{record.claim}.json"
    with whole(path) as temporary:
        temporary.write_text(json.dumps(asdict(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> Record:
    """The record of a result file.

    Raises:
        CheckpointError: it is damaged or foreign, or its verdict is not that of its checks.
    """
    try:
        record = Record(**json.loads(path.read_text(encoding="utf-8")))
        expected = verdict(record.checks)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read as the result of a claim: {error}; run `lowbit check` again") from error
    if record.verdict != expected:
        raise CheckpointError(f"{str(path)!r} says {record.verdict!r}, but its checks say {expected!r}; run `lowbit check` again")
    return record


def claims_page(claims: Iterable[Entry], folder: Path) -> str:
    """docs/claims.md: every registered claim, with what its result file in the folder says.

    Raises:
        CheckpointError: a result file is damaged.
    """
    entries = list(claims)
    found = {e.name: read(folder / f"{e.name}.json") for e in entries if (folder / f"{e.name}.json").is_file()}
    lines = [
        "# Claims",
        "",
        "What sources state, tried here by experiments that can fail. The rules that turn figures into a verdict stand in the code; where "
        "a rule was changed after a run, the setting says so. `lowbit check NAME` repeats one.",
        "",
        *_table([
            {"claim": f"[{e.name}](#{e.name})", "source": f"{e.source.authors} {e.source.year}", "verdict": _verdict(found.get(e.name)),
             "what was found": found[e.name].text.partition(";")[0] if e.name in found else ""}
            for e in entries
        ]),
    ]  # fmt: skip
    for entry in entries:
        lines += ["", *_section(entry, found.get(entry.name))]
    return "\n".join(lines) + "\n"


def _verdict(record: Record | None) -> str:
    return "not run yet" if record is None else f"**{record.verdict}**"


def _section(entry: Entry, record: Record | None) -> list[str]:
    claim, source = entry.thing, entry.source
    lines = [f"## {entry.name}", "", f"{source.authors}, *{source.title}*, {source.year}, {source.where}: {source.parts}."]
    lines += ["", f"Departs: {source.departs}"] if source.departs else []
    lines += ["", f"Statement: {claim.statement}", "", f"Setting: {claim.setting}", "", f"Rule: {claim.rule}"]
    if record is None:
        return [*lines, "", "Not run yet."]
    taken = f"{record.cpu_minutes:g} CPU minutes of {record.budget_minutes:g}, {record.seconds:.0f} s"
    ours = ", ".join(f"{name} {value}" for name, value in record.versions.items())
    where = f"{record.machine['cpu']}, {record.machine['threads']} of {record.machine['cores']} cores"
    lines += ["", f"Verdict: {_verdict(record)}. {record.text[0].upper()}{record.text[1:]}."]
    lines += ["", f"{record.date}; {taken}; {where}; {ours}."]
    if (record.statement, record.setting, record.rule) != (claim.statement, claim.setting, claim.rule):
        lines += ["", "The claim has been reworded since this run."]
    for name, rows in record.figures.items():
        lines += ["", f"{name[0].upper()}{name[1:]}:", "", *_table(rows)]
    return lines


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["(none)"]
    columns = list(rows[0])
    body = [[_cell(row.get(c)) for c in columns] for row in rows]
    return ["| " + " | ".join(cells) + " |" for cells in [columns, ["---"] * len(columns), *body]]


def _cell(value: Any) -> str:
    return "" if value is None else (f"{value:.6g}" if isinstance(value, float) else str(value)).replace("|", "\\|")
