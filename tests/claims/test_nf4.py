"""The rule of the claim nf4: every check can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lowbit.claims import nf4 as module
from lowbit.claims.claim import verdict
from lowbit.claims.nf4 import DOUBLE, OTHERS, SINGLE, judge, nf4

ERRORS = {SINGLE: 0.008, DOUBLE: 0.008, OTHERS[0]: 0.012, OTHERS[1]: 0.011, OTHERS[2]: 0.03}
LOSSES = {(SINGLE, "rtn"): 0.10, (DOUBLE, "rtn"): 0.104, **{(w, "rtn"): 0.12 for w in OTHERS}}


def figures(rows: Any, errors: dict[str, float], shares: list[float], losses: dict[Any, float]) -> dict[str, Any]:
    return {
        "relative mse": [{"weights": w, "relative mse": e} for w, e in (ERRORS | errors).items()],
        "use of codes": [{"code": i, "share": s} for i, s in enumerate(shares)],
        "losses": rows(LOSSES | losses),
    }


@pytest.mark.parametrize(("errors", "ends", "losses", "failing"), [
    ({}, 1 / 16, {}, []),
    ({OTHERS[0]: 0.007}, 1 / 16, {}, [0]),
    ({OTHERS[2]: 0.008}, 1 / 16, {}, [2]),
    ({}, 0.031, {}, [3]),
    ({}, 0.126, {}, [3]),
    ({}, 1 / 16, {(OTHERS[1], "rtn"): 0.09}, [5]),
    ({}, 1 / 16, {(DOUBLE, "rtn"): 0.106}, [7]),
    (dict.fromkeys(OTHERS, 0.001), 0.2, {(SINGLE, "rtn"): 0.2, (DOUBLE, "rtn"): 0.3}, list(range(8))),
])  # fmt: skip
def test_each_check_can_fail(
    rows: Callable[..., Any], errors: dict[str, float], ends: float, losses: dict[Any, float], failing: list[int]
) -> None:
    checks = judge(figures(rows, errors, [ends] + [1 / 16] * 15, losses))
    assert [i for i, met in enumerate(checks.values()) if not met] == failing
    assert verdict(checks) == ("holds" if not failing else "partly" if len(failing) < 8 else "does not hold here")


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    outcome = nf4.run(nf4.least)
    assert len(outcome.figures["losses"]) == 5 and len(outcome.checks) == 8
    assert sum(r["share"] for r in outcome.figures["use of codes"]) == pytest.approx(1, abs=1e-3)
