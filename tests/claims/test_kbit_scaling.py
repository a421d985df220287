"""The rule of the claim kbit-scaling: every check can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lowbit.claims import kbit_scaling as module
from lowbit.claims.claim import verdict
from lowbit.claims.kbit_scaling import FLOAT, WEIGHTS, integer, judge, kbit_scaling

GOOD = dict(zip([(w, "rtn") for w in WEIGHTS], [0.50, 1.00, 0.10, 0.15, 0.0010, 0.0011, 0.09], strict=True))


def test_what_is_measured() -> None:
    assert WEIGHTS == ("int3 flat64", "int3 flat1024", "int4 flat64", "int4 flat1024", "int8 flat64", "int8 flat1024", "e2m1 flat64")


@pytest.mark.parametrize(("changes", "expected", "found"), [
    ({}, [True, True, True, True], "holds"),
    ({(integer(3, 64), "rtn"): 0.96}, [False, True, True, True], "partly"),
    ({(integer(4, 64), "rtn"): 0.144}, [True, False, True, True], "partly"),
    ({(integer(8, 1024), "rtn"): 0.0036}, [True, True, False, True], "partly"),
    ({(FLOAT, "rtn"): 0.101}, [True, True, True, False], "partly"),
    ({(integer(3, 64), "rtn"): 2.0, (integer(4, 64), "rtn"): 0.2, (integer(8, 1024), "rtn"): 0.01, (FLOAT, "rtn"): 0.3}, [False] * 4,
     "does not hold here"),
])  # fmt: skip
def test_each_check_can_fail(rows: Callable[..., Any], changes: dict[Any, float], expected: list[bool], found: str) -> None:
    checks = judge({"losses": rows(GOOD | changes)})
    assert list(checks.values()) == expected
    assert verdict(checks) == found


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    outcome = kbit_scaling.run(kbit_scaling.least)
    assert [r["bits"] for r in outcome.figures["losses"]] == [3.25, 3.016, 4.25, 4.016, 8.25, 8.016, 4.25]
