"""The rule of the claim qep: every check can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lowbit.claims import qep as module
from lowbit.claims.claim import verdict
from lowbit.claims.qep import GPTQ, QEP, THREE, TWO, judge, qep

GOOD = {(THREE, GPTQ): 0.30, (THREE, QEP): 0.25, (TWO, GPTQ): 2.0, (TWO, QEP): 1.5}


@pytest.mark.parametrize(("changes", "expected", "found"), [
    ({}, [True, True, True], "holds"),
    ({(THREE, QEP): 0.30}, [False, True, True], "partly"),
    ({(TWO, QEP): 1.97}, [True, True, False], "partly"),
    ({(TWO, QEP): 2.5}, [True, False, False], "partly"),
    ({(THREE, QEP): 0.31, (TWO, QEP): 2.5}, [False, False, False], "does not hold here"),
])  # fmt: skip
def test_each_check_can_fail(rows: Callable[..., Any], changes: dict[Any, float], expected: list[bool], found: str) -> None:
    checks = judge({"losses": rows(GOOD | changes)})
    assert list(checks.values()) == expected
    assert verdict(checks) == found


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    outcome = qep.run(qep.least)
    assert [(r["weights"], r["solver"]) for r in outcome.figures["losses"]] == [(w, s) for w in (THREE, TWO) for s in (GPTQ, QEP)]
    by_solver = {r["solver"]: r["extra"] for r in outcome.figures["losses"] if r["weights"] == TWO}
    assert by_solver[GPTQ] != by_solver[QEP], "the correction changes nothing"
