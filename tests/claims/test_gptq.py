"""The rule of the claim gptq: every check can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lowbit.claims import gptq as module
from lowbit.claims.claim import verdict
from lowbit.claims.gptq import ACT, FOUR, PLAIN, RTN, THREE, gptq, judge

GOOD = {
    (FOUR, RTN): 0.10, (FOUR, PLAIN): 0.06, (FOUR, ACT): 0.05, (THREE, RTN): 0.60, (THREE, PLAIN): 0.30, (THREE, ACT): 0.25,
}  # fmt: skip
WORDS = [
    f"m, t: {solver} {what}"
    for solver in (PLAIN, ACT)
    for what in (f"loses less than rtn at {FOUR}", f"loses less than rtn at {THREE}", f"gains more at {THREE} than at {FOUR}")
]


@pytest.mark.parametrize(("changes", "failing", "found"), [
    ({}, [], "holds"),
    ({(FOUR, PLAIN): 0.10}, [0], "partly"),
    ({(THREE, ACT): 0.61}, [4, 5], "partly"),
    ({(THREE, PLAIN): 0.57}, [2], "partly"),
    ({(FOUR, s): 0.11 for s in (PLAIN, ACT)} | {(THREE, s): 0.70 for s in (PLAIN, ACT)}, list(range(6)), "does not hold here"),
])  # fmt: skip
def test_each_check_can_fail(rows: Callable[..., Any], changes: dict[Any, float], failing: list[int], found: str) -> None:
    checks = judge({"losses": rows(GOOD | changes)})
    assert checks == {words: i not in failing for i, words in enumerate(WORDS)}
    assert verdict(checks) == found


def test_every_model_and_text_counts(rows: Callable[..., Any]) -> None:
    both = rows(GOOD) + rows(GOOD | {(FOUR, PLAIN): 0.2}, text="other") + rows(GOOD, model="n")
    checks = judge({"losses": both})
    assert len(checks) == 18
    assert [words for words, met in checks.items() if not met] == [f"m, other: {PLAIN} loses less than rtn at {FOUR}"]


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    outcome = gptq.run(gptq.least)
    assert [(r["weights"], r["solver"]) for r in outcome.figures["losses"]] == [(w, s) for w in (FOUR, THREE) for s in (RTN, PLAIN, ACT)]
    assert outcome.figures["left out"] and len(outcome.checks) == 6
