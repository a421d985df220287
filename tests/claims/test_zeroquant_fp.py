"""The rule of the claim zeroquant-fp: every check can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lowbit.claims import zeroquant_fp as module
from lowbit.claims.claim import verdict
from lowbit.claims.zeroquant_fp import FITTED, GPTQ, PLAIN, ROUNDED, RTN, WEIGHTS, judge, zeroquant_fp

GOOD = {(w, s): e for w in WEIGHTS for s, e in ((RTN, 1.0), (ROUNDED, 0.7), (GPTQ, 0.5), (PLAIN, 0.3), (FITTED, 0.2))}


@pytest.mark.parametrize(("changes", "failing"), [
    ({}, []),
    ({ROUNDED: 0.8}, [0]),
    ({PLAIN: 0.41}, [1]),
    ({FITTED: 0.3}, [2]),
])  # fmt: skip
@pytest.mark.parametrize("at", range(3))
def test_each_check_can_fail(rows: Callable[..., Any], at: int, changes: dict[str, float], failing: list[int]) -> None:
    checks = judge({"losses": rows(GOOD | {(WEIGHTS[at], s): e for s, e in changes.items()})})
    assert [i for i, met in enumerate(checks.values()) if not met] == [3 * at + i for i in failing]
    assert verdict(checks) == ("partly" if failing else "holds")


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    outcome = zeroquant_fp.run(zeroquant_fp.least)
    rows = outcome.figures["losses"]
    assert len(rows) == 15 and len({r["extra"] for r in rows}) > 10
