"""Every registered claim has what the contract asks for, and every stored verdict follows from its stored figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lowbit import catalog
from lowbit.catalog import Entry
from lowbit.claims.claim import Budget, Claim, summary, verdict
from lowbit.claims.record import RESULTS, read
from lowbit.errors import DataError

ROOT = Path(__file__).parent.parent.parent
CLAIMS = [pytest.param(e, id=e.name) for e in catalog.entries("claim")]


# ---- the contract


@pytest.mark.parametrize("entry", CLAIMS)
def test_a_claim_says_what_it_is(entry: Entry) -> None:
    claim = entry.thing
    assert isinstance(claim, Claim)
    assert Path(entry.file).stem == entry.name.replace("-", "_")
    assert entry.source.parts and entry.source.where
    assert entry.name in entry.source.records or "No record of the literature catalogue" in entry.source.departs
    for words in (claim.statement, claim.setting, claim.rule):
        assert len(words) > 40 and words.endswith(".")
    assert 0 < claim.least <= claim.minutes


@pytest.mark.parametrize("entry", CLAIMS)
def test_a_stored_result_follows_from_its_figures(entry: Entry) -> None:
    """The rules are run again on what was measured; figures that have been changed, or rules since, show here."""
    path = ROOT / RESULTS / f"{entry.name}.json"
    if not path.is_file():
        pytest.skip(f"{entry.name} has no stored result yet: run `lowbit check {entry.name}`")
    record = read(path)
    assert record.claim == entry.name
    assert entry.thing.judge(record.figures) == record.checks
    assert (record.verdict, record.text) == (verdict(record.checks), summary(record.checks))
    assert (record.statement, record.setting, record.rule) == (entry.thing.statement, entry.thing.setting, entry.thing.rule)
    assert record.cpu_minutes > 0 and record.seconds > 0 and record.machine["cpu"] and record.versions["torch"]


def test_every_stored_result_is_of_a_claim() -> None:
    known = {e.name for e in catalog.entries("claim")}
    assert {p.stem for p in (ROOT / RESULTS).glob("*.json")} <= known


def test_stored_results_hold_no_path_of_a_machine() -> None:
    for path in (ROOT / RESULTS).glob("*.json"):
        for row in [r for rows in json.loads(path.read_text(encoding="utf-8"))["figures"].values() for r in rows]:
            assert not any(isinstance(v, str) and v.startswith("/") for v in row.values()), (path, row)


# ---- verdicts


@pytest.mark.parametrize(("checks", "expected", "words"), [
    ({"a": True, "b": True}, "holds", "2 of 2 checks are met"),
    ({"a": True, "b": False}, "partly", "1 of 2 checks are met; not met: b"),
    ({"a": False, "b": False}, "does not hold here", "0 of 2 checks are met; not met: a; b"),
])  # fmt: skip
def test_verdicts(checks: dict[str, bool], expected: str, words: str) -> None:
    assert verdict(checks) == expected
    assert summary(checks) == words


def test_nothing_checked_is_no_verdict() -> None:
    with pytest.raises(DataError, match="no figure could be checked; raise the budget"):
        verdict({})


# ---- running


def example(least: float = 0.5) -> tuple[Claim, list[Any]]:
    seen: list[Any] = []

    def measure(budget: Budget, progress: object) -> dict[str, list[dict[str, Any]]]:
        seen.append((budget.minutes, progress))
        return {"sizes": [{"name": "a", "size": 3}, {"name": "b", "size": 5}]}

    def judge(figures: dict[str, list[dict[str, Any]]]) -> dict[str, bool]:
        return {f"{r['name']} is below 4": r["size"] < 4 for r in figures["sizes"]}

    return Claim("s", "t", "r", least, 2.0, measure, judge), seen


def test_running_measures_then_judges() -> None:
    claim, seen = example()
    outcome = claim.run(0.75)
    assert seen == [(0.75, None)]
    assert outcome.verdict == "partly" and outcome.checks == {"a is below 4": True, "b is below 4": False}
    assert outcome.text == "1 of 2 checks are met; not met: b is below 4"
    assert outcome.figures["sizes"][1]["size"] == 5


def test_a_budget_below_the_least_is_refused() -> None:
    claim, seen = example()
    with pytest.raises(DataError, match=r"a budget of 0\.25 CPU minutes; this claim takes 0\.5 at least, 2 with everything"):
        claim.run(0.25)
    assert seen == []


def test_a_budget_counts_the_work_of_this_process() -> None:
    budget = Budget(1.0)
    before = budget.spent
    assert 0 <= before < 0.1
    sum(i * i for i in range(300_000))
    assert budget.spent > before
    assert budget.allows(0.5) and not budget.allows(1.0)
    for minutes in (0.0, -1.0, float("nan")):
        with pytest.raises(DataError, match="minutes; give a number above 0"):
            Budget(minutes)
