"""The rule of the claim signround: every check can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lowbit.claims import signround as module
from lowbit.claims.claim import verdict
from lowbit.claims.signround import BOTH, FOUR, GPTQ, RANGES, ROUNDING, RTN, THREE, TWO, judge, signround

GOOD = {
    (FOUR, RTN): 0.1, (FOUR, GPTQ): 0.05, (FOUR, BOTH): 0.04, (FOUR, ROUNDING): 0.05, (FOUR, RANGES): 0.08,
    (THREE, RTN): 1.0, (THREE, GPTQ): 0.3, (THREE, BOTH): 0.2, (THREE, ROUNDING): 0.3, (THREE, RANGES): 0.5,
    (TWO, RTN): 5.0, (TWO, GPTQ): 2.0, (TWO, BOTH): 1.0, (TWO, ROUNDING): 3.0, (TWO, RANGES): 1.5,
}  # fmt: skip


@pytest.mark.parametrize(("changes", "failing"), [
    ({}, []),
    ({(THREE, BOTH): 0.31}, [0]),
    ({(THREE, GPTQ): 1.1}, [1]),
    ({(TWO, BOTH): 2.1}, [2]),
    ({(TWO, GPTQ): 5.0}, [3]),
    ({(FOUR, BOTH): 0.1}, [4]),
    ({(FOUR, RANGES): 0.05}, [5]),
    ({(TWO, RANGES): 3.5}, [6]),
])  # fmt: skip
def test_each_check_can_fail(rows: Callable[..., Any], changes: dict[Any, float], failing: list[int]) -> None:
    checks = judge({"losses": rows(GOOD | changes)})
    assert [i for i, met in enumerate(checks.values()) if not met] == failing
    assert verdict(checks) == ("partly" if failing else "holds")


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    outcome = signround.run(signround.least)
    assert len(outcome.figures["losses"]) == 15
    assert [r["solver"] for r in outcome.figures["losses"] if r["weights"] == TWO] == [RTN, GPTQ, BOTH, ROUNDING, RANGES]
