"""What is kept of a run reads back; the page says what the files say and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from lowbit.catalog import Entry, Source
from lowbit.claims.claim import Claim
from lowbit.claims.record import RESULTS, claims_page, read, results_folder, tried, write
from lowbit.errors import CheckpointError, DataError, OutputError

FIGURES = {"sizes": [{"name": "a|b", "size": 0.123456789}, {"name": "c", "size": 5}]}


def entry(name: str = "k-small", checks: dict[str, bool] | None = None) -> Entry:
    found = {"a is small": True, "c is small": False} if checks is None else checks
    claim = Claim("It is small.", "A ruler.", "Below 4.", 0.1, 0.2, lambda budget, progress: FIGURES, lambda figures: found)
    return Entry("claim", name, claim, Source("On Size", "Short et al.", 2026, "arXiv:2601.00001", "table 1", "Shorter."), (), "x.py", 1)


def test_a_run_is_recorded_and_reads_back(tmp_path: Path) -> None:
    record = tried(entry(), 0.15)
    assert (record.claim, record.verdict, record.budget_minutes) == ("k-small", "partly", 0.15)
    assert record.figures == FIGURES and record.source["where"] == "arXiv:2601.00001"
    assert record.machine["cpu"] and record.machine["threads"] >= 1 and record.versions.keys() >= {"lowbit", "torch", "python"}
    path = write(record, tmp_path / "new" / "folder")
    assert path.name == "k-small.json" and read(path) == record
    assert json.loads(path.read_text(encoding="utf-8")) == asdict(record)


def test_the_usual_budget_has_room() -> None:
    assert tried(entry()).budget_minutes == pytest.approx(0.3)
    with pytest.raises(DataError, match=r"a budget of 0\.01 CPU minutes"):
        tried(entry(), 0.01)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"claim": "a"}', "{"])
def test_a_damaged_result_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"a\.json' cannot be read as the result of a claim"):
        read(path)


def test_a_verdict_that_is_not_that_of_its_checks_is_refused(tmp_path: Path) -> None:
    path = write(replace(tried(entry()), verdict="holds"), tmp_path)
    with pytest.raises(CheckpointError, match="says 'holds', but its checks say 'partly'; run `lowbit check` again"):
        read(path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"the folder .*file/results' cannot be made"):
        write(tried(entry()), tmp_path / "file" / "results")


def test_the_page(tmp_path: Path) -> None:
    record = replace(
        tried(entry()), cpu_minutes=0.25, seconds=12.0, date="2026-11-22", machine={"cpu": "Some CPU", "cores": 2, "threads": 1}
    )
    write(replace(record, versions={"torch": "2.13.0"}), tmp_path)
    page = claims_page([entry(), entry("other")], tmp_path)
    assert "| [k-small](#k-small) | Short et al. 2026 | **partly** | 1 of 2 checks are met |\n" in page
    assert "| [other](#other) | Short et al. 2026 | not run yet |  |\n" in page
    section = page.partition("## k-small\n")[2].partition("## other\n")[0]
    for words in (
        "Short et al., *On Size*, 2026, arXiv:2601.00001: table 1.", "Departs: Shorter.", "Statement: It is small.", "Setting: A ruler.",
        "Rule: Below 4.", "Verdict: **partly**. 1 of 2 checks are met; not met: c is small.",
        "2026-11-22; 0.25 CPU minutes of 0.3, 12 s; Some CPU, 1 of 2 cores; torch 2.13.0.",
        "| name | size |\n| --- | --- |\n| a\\|b | 0.123457 |\n| c | 5 |\n",
    ):  # fmt: skip
        assert words in section
    assert page.endswith("Not run yet.\n") and "reworded" not in page


def test_a_claim_that_was_reworded_since_its_run_is_marked(tmp_path: Path) -> None:
    write(replace(tried(entry()), rule="Below 5."), tmp_path)
    assert "The claim has been reworded since this run." in claims_page([entry()], tmp_path)


def test_results_lie_in_the_checkout_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert results_folder() == tmp_path
    (tmp_path / "src" / "lowbit" / "claims").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    assert results_folder() == tmp_path / RESULTS


def test_figures_that_json_cannot_say_are_refused(tmp_path: Path) -> None:
    broken: dict[str, list[dict[str, Any]]] = {"sizes": [{"size": float("nan")}]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(replace(tried(entry()), figures=broken), tmp_path)
    assert list(tmp_path.iterdir()) == []
