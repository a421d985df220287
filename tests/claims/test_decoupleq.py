"""The rule of the claim decoupleq: every check can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lowbit.claims import decoupleq as module
from lowbit.claims.claim import verdict
from lowbit.claims.decoupleq import FOUR, GPTQ, ONE, THREE, TWO, decoupleq, judge

GOOD = {(w, s): e for w in (TWO, THREE) for s, e in ((GPTQ, 0.5), (ONE, 0.4), (FOUR, 0.3))}
LAYER = {"gptq": 1.0, "gptq and one refit": 0.8, "decoupleq 1": 0.8, "decoupleq 2": 0.7, "decoupleq 4": 0.65}


@pytest.mark.parametrize(("changes", "layer", "failing"), [
    ({}, {}, []),
    ({}, {"decoupleq 4": 0.71}, [0, 2]),
    ({}, {"gptq and one refit": 0.91}, [1]),
    ({(TWO, ONE): 0.5}, {}, [3]),
    ({(TWO, FOUR): 0.4}, {}, [4]),
    ({(THREE, ONE): 0.6}, {}, [5]),
    ({(THREE, FOUR): 0.45}, {}, [6]),
])  # fmt: skip
def test_each_check_can_fail(rows: Callable[..., Any], changes: dict[Any, float], layer: dict[str, float], failing: list[int]) -> None:
    layers = [{"model": "m", "weights": w, "layer": n, **(LAYER | layer)} for w in (TWO, THREE) for n in ("a", "b")]
    checks = judge({"losses": rows(GOOD | changes), "output error": layers})
    assert [i for i, met in enumerate(checks.values()) if not met] == failing
    assert verdict(checks) == ("partly" if failing else "holds")


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    outcome = decoupleq.run(decoupleq.least)
    assert len(outcome.figures["losses"]) == 6 and len(outcome.figures["output error"]) == 14
    for row in outcome.figures["output error"]:
        assert row["decoupleq 4"] < row["gptq"]
