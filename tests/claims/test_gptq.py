"""The rule of the claim gptq: every check can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lowbit.claims import gptq as module
from lowbit.claims.claim import verdict
from lowbit.claims.gptq import FOUR, GPTQ, RTN, THREE, gptq, judge

GOOD = {(FOUR, RTN): 0.10, (FOUR, GPTQ): 0.06, (THREE, RTN): 0.60, (THREE, GPTQ): 0.30}
WORDS = [
    f"m, t: gptq loses less than rtn at {FOUR}",
    f"m, t: gptq loses less than rtn at {THREE}",
    f"m, t: it gains more at {THREE} than at {FOUR}",
]


@pytest.mark.parametrize(("changes", "expected", "found"), [
    ({}, [True, True, True], "holds"),
    ({(FOUR, GPTQ): 0.10}, [False, True, True], "partly"),
    ({(THREE, GPTQ): 0.61}, [True, False, False], "partly"),
    ({(THREE, GPTQ): 0.57}, [True, True, False], "partly"),
    ({(FOUR, GPTQ): 0.11, (THREE, GPTQ): 0.70}, [False, False, False], "does not hold here"),
])  # fmt: skip
def test_each_check_can_fail(rows: Callable[..., Any], changes: dict[Any, float], expected: list[bool], found: str) -> None:
    checks = judge({"losses": rows(GOOD | changes)})
    assert checks == dict(zip(WORDS, expected, strict=True))
    assert verdict(checks) == found


def test_every_model_and_text_counts(rows: Callable[..., Any]) -> None:
    both = rows(GOOD) + rows(GOOD | {(FOUR, GPTQ): 0.2}, text="other") + rows(GOOD, model="n")
    checks = judge({"losses": both})
    assert len(checks) == 9
    assert [words for words, met in checks.items() if not met] == [f"m, other: gptq loses less than rtn at {FOUR}"]


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    outcome = gptq.run(gptq.least)
    assert [(r["weights"], r["solver"]) for r in outcome.figures["losses"]] == [(w, s) for w in (FOUR, THREE) for s in (RTN, GPTQ)]
    assert outcome.figures["left out"] and len(outcome.checks) == 3
