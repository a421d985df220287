"""The rule of the claim comq: every check can fail."""

from __future__ import annotations

from typing import Any

import pytest

from lowbit.claims import comq as module
from lowbit.claims.claim import verdict
from lowbit.claims.comq import AFTER, CYCLIC, GREEDY, REFITTED, WIDTHS, comq, judge

GOOD = {
    "rtn": 1.0,
    "gptq": 0.5,
    GREEDY[1]: 0.52,
    GREEDY[2]: 0.46,
    GREEDY[3]: 0.45,
    GREEDY[5]: 0.44,
    CYCLIC: 0.47,
    REFITTED: 0.3,
    AFTER: 0.4,
}


def figures(changes: dict[str, float]) -> dict[str, Any]:
    return {"output error": [{"model": "m", "weights": "int2 row", "solver": s, "share": v} for s, v in (GOOD | changes).items()]}


@pytest.mark.parametrize(("changes", "failing"), [
    ({}, []),
    ({GREEDY[5]: 0.46}, [0]),
    ({CYCLIC: 0.45}, [1]),
    ({CYCLIC: 1.0}, [1]),
    ({GREEDY[1]: 0.56}, [2]),
    ({"gptq": 0.44, AFTER: 0.43, GREEDY[1]: 0.48}, [3]),
    ({AFTER: 0.5}, [4]),
    ({REFITTED: 0.39}, [5]),
])  # fmt: skip
def test_each_check_can_fail(changes: dict[str, float], failing: list[int]) -> None:
    checks = judge(figures(changes))
    assert [i for i, met in enumerate(checks.values()) if not met] == failing
    assert verdict(checks) == ("partly" if failing else "holds")


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    outcome = comq.run(comq.least)
    assert len(outcome.figures["output error"]) == 9 * len(WIDTHS)
    assert all(0 < r["share"] < 1 for r in outcome.figures["output error"] if r["weights"] != "int2 row")
