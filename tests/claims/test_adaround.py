"""The rule of the claim adaround: every check can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lowbit.claims import adaround as module
from lowbit.claims.adaround import AT_RANDOM, FLOAT, INTEGERS, PLAIN, RTN, SCALED, adaround, judge
from lowbit.claims.claim import verdict

FOUR, THREE = INTEGERS
GOOD = {
    (FOUR, RTN): 0.1, (FOUR, PLAIN): 0.06, (FOUR, SCALED): 0.06, (FOUR + AT_RANDOM, RTN): 0.2,
    (THREE, RTN): 1.0, (THREE, PLAIN): 0.5, (THREE, SCALED): 0.5, (THREE + AT_RANDOM, RTN): 2.0,
    (FLOAT, RTN): 0.1, (FLOAT, PLAIN): 0.07, (FLOAT, SCALED): 0.06,
}  # fmt: skip


@pytest.mark.parametrize(("changes", "failing"), [
    ({}, []),
    ({(FOUR, PLAIN): 0.1}, [0]),
    ({(THREE, PLAIN): 1.5}, [1]),
    ({(FLOAT, PLAIN): 0.1, (FLOAT, SCALED): 0.08}, [2]),
    ({(FOUR + AT_RANDOM, RTN): 0.09}, [3]),
    ({(THREE + AT_RANDOM, RTN): 1.0}, [4]),
    ({(FLOAT, SCALED): 0.07}, [5]),
])  # fmt: skip
def test_each_check_can_fail(rows: Callable[..., Any], changes: dict[Any, float], failing: list[int]) -> None:
    checks = judge({"losses": rows(GOOD | changes)})
    assert [i for i, met in enumerate(checks.values()) if not met] == failing
    assert verdict(checks) == ("partly" if failing else "holds")


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    outcome = adaround.run(adaround.least)
    found = {(r["weights"], r["solver"]): r["extra"] for r in outcome.figures["losses"]}
    assert len(found) == 11
    assert {w for w, _ in found} == {FOUR, THREE, FLOAT, FOUR + AT_RANDOM, THREE + AT_RANDOM}
