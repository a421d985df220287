"""The rule of the claim fptq: every check can fail."""

from __future__ import annotations

from typing import Any

import pytest

from lowbit.claims import fptq as module
from lowbit.claims.fptq import LAE, RULE, SMOOTH, fptq, judge

GOOD = {"static + rtn": 0.4, f"{SMOOTH} + rtn": 0.2, f"{LAE} + rtn": 0.15, f"{RULE} + rtn": 0.105, "rtn": 0.1}


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, [True, True]),
    ({f"{LAE} + rtn": 0.21}, [False, True]),
    ({f"{RULE} + rtn": 0.111}, [True, False]),
])  # fmt: skip
def test_each_check_can_fail(changes: dict[str, float], expected: list[bool]) -> None:
    rows = [{"model": "m", "text": "t", "solver": s, "extra": e} for s, e in (GOOD | changes).items()]
    assert list(judge({"losses": rows}).values()) == expected


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    assert [r["solver"] for r in fptq.run(fptq.least).figures["losses"]] == list(GOOD)
