"""lowbit check prints figures and verdict and writes them where it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lowbit import catalog
from lowbit.catalog import Source, register, unregister
from lowbit.claims.claim import Budget, Claim, Figures
from lowbit.claims.record import read

Command = Callable[..., Any]
NOWHERE = Source("On Size", "Short et al.", 2026, "arXiv:2601.00001", "table 1")


@pytest.fixture
def only_two(kept_catalogue: None) -> list[float]:
    """The catalogue holds two claims of the test's; what budgets they were given."""
    budgets: list[float] = []

    def measure(budget: Budget, progress: object) -> Figures:
        budgets.append(budget.minutes)
        return {"sizes": [{"name": "a", "size": 0.25}]}

    claim = Claim("It is small.", "A ruler.", "Below 4.", 0.5, 1.0, measure, lambda figures: {"a is small": False})
    for entry in list(catalog.entries("claim")):
        unregister("claim", entry.name)
    register("claim", "big", NOWHERE)(replace(claim, minutes=3.0))
    register("claim", "small", NOWHERE)(claim)
    return budgets


def test_one_claim(command: Command, only_two: list[float], tmp_path: Path) -> None:
    done = command("check", "small", "--budget", "0.75", "--results", str(tmp_path / "results"), "--json", str(tmp_path / "a.json"))
    assert done.code == 0, done.err
    for words in ("small: It is small.", "sizes", "0.25", "no  a is small", "verdict: does not hold here (0 of 1 checks are met"):
        assert words in done.out
    assert f"written to {tmp_path / 'results' / 'small.json'}" in done.out.replace("\n", "")
    record = read(tmp_path / "results" / "small.json")
    assert (record.claim, record.verdict, record.budget_minutes) == ("small", "does not hold here", 0.75)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == json.loads(
        (tmp_path / "results" / "small.json").read_text(encoding="utf-8")
    )
    assert only_two == [0.75]


def test_without_a_budget_a_claim_has_room(command: Command, only_two: list[float], tmp_path: Path) -> None:
    assert command("check", "small", "--results", str(tmp_path)).code == 0
    assert only_two == [1.5]


def test_all_claims_share_a_budget(command: Command, only_two: list[float], tmp_path: Path) -> None:
    done = command("check", "--all", "--budget", "8", "--results", str(tmp_path), "--json", str(tmp_path / "all.json"))
    assert done.code == 0
    assert only_two == [pytest.approx(6.0), pytest.approx(2.0)]
    assert [r["claim"] for r in json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))] == ["big", "small"]
    assert {p.name for p in tmp_path.iterdir()} == {"big.json", "small.json", "all.json"}


def test_what_no_budget_is_left_for_is_said(command: Command, only_two: list[float], tmp_path: Path) -> None:
    done = command("check", "--all", "--budget", "0.4", "--results", str(tmp_path))
    assert done.code == 0 and only_two == []
    assert "big: left out, it takes 0.5 CPU minutes and 0.4 are left" in done.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "name one claim, or say --all"),
    (("small", "--all"), "name one claim, or say --all"),
    (("smal",), "no claim is called 'smal'; did you mean 'small'?"),
    (("small", "--budget", "0.1"), "a budget of 0.1 CPU minutes; this claim takes 0.5 at least, 1 with everything"),
    (("small", "--budget", "-1"), "--budget -1: a number of CPU minutes above 0"),
    (("--all", "--budget", "nan"), "--budget nan: a number of CPU minutes above 0"),
    (("small", "--json", "no/such/folder.json"), "there is no folder"),
])  # fmt: skip
@pytest.mark.usefixtures("only_two")
def test_mistakes(command: Command, arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = command("check", *arguments, "--results", str(tmp_path))
    assert done.code == 2 and message in done.err
    assert list(tmp_path.iterdir()) == []
